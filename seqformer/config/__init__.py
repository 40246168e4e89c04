"""Every setting of a run: frozen dataclasses, the named presets, and nowhere else a default.

The text under a field is its `--help`. `train.py PRESET --data.num-frames 3` overrides one field of
a preset. Conflicts are refused here, in words, before anything starts.
"""

from seqformer.config.as_json import config_from_dict, config_to_dict
from seqformer.config.data import AugmentConfig, DataConfig
from seqformer.config.eval import EvalConfig, Precision
from seqformer.config.model import IMAGENET_MEAN, IMAGENET_STD, BackboneName, ModelConfig
from seqformer.config.presets import presets
from seqformer.config.train import DemoConfig, LossConfig, OptimConfig, TrainConfig

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "AugmentConfig",
    "BackboneName",
    "DataConfig",
    "DemoConfig",
    "EvalConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "Precision",
    "TrainConfig",
    "config_from_dict",
    "config_to_dict",
    "presets",
]
