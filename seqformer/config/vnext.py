"""The recipe of VNext, the authors' rewrite of SeqFormer on detectron2."""

from __future__ import annotations

from pathlib import Path

from seqformer.config.data import AugmentConfig, DataConfig
from seqformer.config.eval import EvalConfig
from seqformer.config.model import ModelConfig
from seqformer.config.optim import OptimConfig
from seqformer.config.train import TrainConfig


def vnext_r50() -> TrainConfig:
    """ResNet-50 on YouTube-VIS alone, as its configuration files say.

    Two things differ. An epoch of ours has every frame once, so long videos weigh more than in
    VNext, which draws a video and then a frame. And its ten warm-up steps begin with the full rate,
    which is no warm-up; `warmup_factor` says so.
    """
    return TrainConfig(
        output=Path("runs/vnext_r50"),
        max_steps=12_000,
        model=ModelConfig(backbone="resnet50", num_classes=40, dropout=0.1),
        data=DataConfig(
            class_layout="from_data",
            global_batch_size=16,
            num_frames=5,
            frame_range=10,
            frame_choice="window",
            augment=AugmentConfig(
                photometric=False,
                short_sides=(320, 352, 392, 416, 448, 480, 512, 544, 576, 608, 640),
                max_long_side=1333,
                crop_prob=0.0,
            ),
        ),
        optim=OptimConfig(
            lr_linear_proj_mult=1.0,
            clip_max_norm=0.01,
            lr_drop_steps=(8_000,),
            warmup_steps=10,
            warmup_factor=1.0,
        ),
        eval=EvalConfig(label_rule="above", label_threshold=0.05),
    )
