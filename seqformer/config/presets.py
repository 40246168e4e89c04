"""The named runs: `train.py NAME`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from seqformer.config.data import AugmentConfig, DataConfig
from seqformer.config.eval import STILLS, EvalConfig
from seqformer.config.execution import (
    AUTO_WEIGHTS,
    CheckpointConfig,
    LoggingConfig,
    StartConfig,
)
from seqformer.config.model import BackboneName, ModelConfig
from seqformer.config.optim import LossConfig, OptimConfig
from seqformer.config.train import DemoConfig, TrainConfig
from seqformer.config.vnext import vnext_r50


def _published(backbone: BackboneName, **changes: Any) -> TrainConfig:
    """The joint YouTube-VIS + COCO recipe of the paper for one backbone."""
    swin = backbone.startswith("swin")
    return replace(
        TrainConfig(
            model=ModelConfig(backbone=backbone, dropout=0.1, drop_path=0.3 if swin else 0.0),
            data=DataConfig(
                class_layout="published",
                global_batch_size=16,
                coco_images=Path("data/coco/train2017"),
                coco_annotations=Path("data/coco/annotations/coco_keepfor_ytvis2019.json"),
            ),
        ),
        **changes,
    )


_DROP_PATH = {"swin_t": 0.2, "swin_s": 0.2, "swin_b": 0.3, "swin_l": 0.3}
"""Stochastic depth of each Swin in training."""
_COCO_BACKBONES: dict[str, BackboneName] = {
    "r50_coco": "resnet50",
    "r101_coco": "resnet101",
    "x101_coco": "resnext101_32x8d",
    "swin_t_coco": "swin_t",
    "swin_s_coco": "swin_s",
    "swin_b_coco": "swin_b",
    "swin_l_coco": "swin_l",
}


def _coco(name: str) -> TrainConfig:
    """The stage before the joint one: single pictures of COCO, from ImageNet weights."""
    backbone, coco = _COCO_BACKBONES[name], Path("data/coco")
    is_large = backbone in ("resnext101_32x8d", "swin_b", "swin_l")
    return TrainConfig(
        output=Path("runs") / name,
        epochs=50,
        eval_every_epochs=10,
        start=StartConfig(backbone_weights=AUTO_WEIGHTS),
        model=ModelConfig(
            backbone=backbone,
            num_classes=91,
            dropout=0.1,
            drop_path=_DROP_PATH.get(backbone, 0.0),
        ),
        data=DataConfig(
            layout="stills",
            train_images=coco / "train2017",
            train_annotations=coco / "annotations" / "instances_train2017.json",
            val_images=coco / "val2017",
            val_annotations=coco / "annotations" / "instances_val2017.json",
            class_layout="published",
            num_frames=1,
            batch_size=1 if is_large else 2,
            global_batch_size=16,
            augment=AugmentConfig(
                photometric=False,
                short_sides=tuple(range(480, 769, 32)),
                max_long_side=1333,
            ),
        ),
        optim=OptimConfig(lr_drop_epochs=(40,)),
        eval=STILLS,
    )


def _one_clip(config: TrainConfig) -> TrainConfig:
    return replace(config, data=replace(config.data, batch_size=1))


_MINI_MODEL = ModelConfig(
    backbone="resnet_mini",
    hidden_dim=64,
    num_heads=4,
    num_levels=3,
    num_encoder_layers=2,
    num_decoder_layers=3,
    ffn_dim=256,
    num_queries=20,
    mask_dim=32,
)
"""A million parameters, meant to be trained from scratch."""

_FROM_SCRATCH = OptimConfig(
    lr=1e-3,
    lr_backbone=1e-3,
    lr_linear_proj_mult=0.5,
    clip_max_norm=1.0,
    schedule="cosine",
    warmup_steps=50,
)


def _demo() -> DemoConfig:
    """A small model that learns moving shapes from scratch: on single frames first, which cost less
    and show all there is to know about a shape, then on clips, which show what belongs together.
    Places are learnt long before classes, so classes weigh more than published.
    """
    return DemoConfig(
        output=Path("runs/demo"),
        max_steps=400,
        seed=0,
        logging=LoggingConfig(log_every=20),
        checkpoint=CheckpointConfig(checkpoint_every=500),
        model=_MINI_MODEL,
        data=DataConfig(
            num_frames=2,
            single_frame_steps=290,
            batch_size=8,
            num_workers=0,
            cache_frames=True,
            augment=AugmentConfig(
                photometric=False, short_sides=(64,), max_long_side=96, crop_prob=0.0
            ),
        ),
        loss=LossConfig(class_weight=5.0),
        optim=replace(_FROM_SCRATCH, lr=3e-3, lr_backbone=3e-3, muon=2.0, warmup_steps=50),
        eval=EvalConfig(short_side=64),
    )


def _mini() -> TrainConfig:
    """The demo's model on one's own data."""
    return TrainConfig(
        output=Path("runs/mini"),
        model=_MINI_MODEL,
        data=DataConfig(
            num_frames=3,
            batch_size=4,
            augment=AugmentConfig(short_sides=(112, 128, 144), max_long_side=256, crop_prob=0.0),
        ),
        optim=_FROM_SCRATCH,
        eval=EvalConfig(short_side=128),
    )


def presets() -> dict[str, tuple[str, TrainConfig]]:
    """Name -> (one line of help, config)."""
    r50_ablation = _published("resnet50", output=Path("runs/r50_ablation"))
    r50_ablation = replace(
        r50_ablation,
        optim=OptimConfig(lr_drop_epochs=(2, 10)),
        data=replace(r50_ablation.data, coco_images=None, coco_annotations=None),
    )
    return {
        "demo": ("Minutes on a CPU: synthetic videos, small model, AP and pictures", _demo()),
        "mini": ("The demo's model on your own data, from scratch", _mini()),
        "r50_ablation": ("ResNet-50, YouTube-VIS only (paper's ablations)", r50_ablation),
        "r50": (
            "ResNet-50, YouTube-VIS and COCO jointly, as all below",
            _published("resnet50", output=Path("runs/r50")),
        ),
        "r101": ("ResNet-101", _published("resnet101", output=Path("runs/r101"))),
        "x101": (
            "ResNeXt-101 32x8d",
            _one_clip(_published("resnext101_32x8d", output=Path("runs/x101"))),
        ),
        "vnext_r50": ("ResNet-50, YouTube-VIS only, as VNext trains it", vnext_r50()),
        "swin_l": ("Swin-L", _one_clip(_published("swin_l", output=Path("runs/swin_l")))),
        **{
            name: (f"{_COCO_BACKBONES[name]}, the stage before: pictures of COCO", _coco(name))
            for name in _COCO_BACKBONES
        },
    }
