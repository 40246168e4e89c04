"""Every setting of a run: frozen dataclasses, the named presets, and nowhere else a default.

The text under a field is its `--help`. `train.py PRESET --data.num-frames 3` overrides one field of
a preset. Conflicts are refused here, in words, before anything starts.
"""

from seqformer.config.as_json import config_from_dict, config_to_dict
from seqformer.config.data import AugmentConfig, DataConfig
from seqformer.config.eval import (
    STILLS,
    EvalConfig,
    EvalOptions,
    InferencePrecision,
    KernelBackend,
    Precision,
)
from seqformer.config.execution import (
    AUTO_WEIGHTS,
    CheckpointConfig,
    ComputeConfig,
    LoggingConfig,
    ParallelConfig,
    StartConfig,
)
from seqformer.config.fields import changeable, grouped, override
from seqformer.config.model import IMAGENET_MEAN, IMAGENET_STD, BackboneName, ModelConfig
from seqformer.config.optim import LossConfig, OptimConfig
from seqformer.config.presets import presets
from seqformer.config.report import RESAMPLES, ReportOptions
from seqformer.config.train import DemoConfig, TrainConfig
from seqformer.config.tuning import TuningConfig

__all__ = [
    "AUTO_WEIGHTS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "RESAMPLES",
    "STILLS",
    "AugmentConfig",
    "BackboneName",
    "CheckpointConfig",
    "ComputeConfig",
    "DataConfig",
    "DemoConfig",
    "EvalConfig",
    "EvalOptions",
    "InferencePrecision",
    "KernelBackend",
    "LoggingConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "ParallelConfig",
    "Precision",
    "ReportOptions",
    "StartConfig",
    "TrainConfig",
    "TuningConfig",
    "changeable",
    "config_from_dict",
    "config_to_dict",
    "grouped",
    "override",
    "presets",
]
