"""A training run: all settings together, most of them in groups of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seqformer.config.data import DataConfig
from seqformer.config.eval import EvalConfig
from seqformer.config.execution import (
    CheckpointConfig,
    ComputeConfig,
    LoggingConfig,
    ParallelConfig,
    StartConfig,
)
from seqformer.config.fields import GROUP, MAY_CHANGE
from seqformer.config.model import ModelConfig
from seqformer.config.optim import LossConfig, OptimConfig
from seqformer.config.tuning import TuningConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    output: Path = field(default=Path("runs/train"), metadata=MAY_CHANGE)
    """Folder for checkpoints, log and results."""
    max_steps: int = field(default=0, metadata=MAY_CHANGE)
    """Stop after this many optimiser steps; 0 means `epochs` decide."""
    epochs: int = field(default=12, metadata=MAY_CHANGE)
    """Passes over the training set."""
    seed: int = 42
    """Seed of weights, sampling, augmentation and dropout (there each process adds its rank)."""
    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=MAY_CHANGE)
    """auto takes the GPU where there is one."""
    eval_every_epochs: int = field(default=0, metadata=MAY_CHANGE)
    """Epochs between validations where a validation set is given; 0 validates at the end only."""
    max_skipped_steps: int = field(default=10, metadata=MAY_CHANGE)
    """Steps with a loss or gradient that is not finite, which are skipped, before the run stops."""
    start: StartConfig = field(default_factory=StartConfig, metadata=GROUP)
    distributed: ParallelConfig = field(default_factory=ParallelConfig, metadata=GROUP)
    compute: ComputeConfig = field(default_factory=ComputeConfig, metadata=GROUP)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata=GROUP)
    logging: LoggingConfig = field(default_factory=LoggingConfig, metadata=GROUP)
    tuning: TuningConfig = field(default_factory=TuningConfig, metadata=GROUP)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig, metadata=MAY_CHANGE)

    def __post_init__(self) -> None:
        if self.max_steps < 0 or self.epochs < 1:
            raise ValueError(
                f"max_steps must be >= 0 and epochs >= 1, got {self.max_steps} and {self.epochs}"
            )
        for name in ("eval_every_epochs", "max_skipped_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.tuning.layer_decay != 1 and not self.model.backbone.startswith("swin"):
            raise ValueError(
                f"layer_decay is for Swin, whose blocks stand in a row; {self.model.backbone} has "
                "one learning rate, optim.lr_backbone"
            )
        if self.eval.precision == "int8":
            raise ValueError(
                "eval.precision int8 needs ranges of a model's numbers, which change in training; "
                "validate in fp32, bf16 or fp16"
            )
        if self.tuning.patience and not self.eval_every_epochs:
            raise ValueError(
                f"patience {self.tuning.patience} counts validations; give eval_every_epochs too"
            )


@dataclass(frozen=True, kw_only=True)
class DemoConfig(TrainConfig):
    """A run on synthetic videos that it draws itself under `output`/data."""

    processes: int = field(default=0, metadata=MAY_CHANGE)
    """Training processes, which share `data.batch_size`; 0: one on a GPU, else up to two."""
    num_train_videos: int = 400
    """Synthetic videos to train on."""
    num_val_videos: int = 60
    """Synthetic videos held out for the AP."""
    video_length: int = 8
    """Frames per synthetic video."""
    frame_size: tuple[int, int] = (96, 144)
    """Height and width of the synthetic frames in pixels."""
    data_seed: int = 0
    """Seed of the synthetic videos."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.processes < 0:
            raise ValueError(f"processes must be >= 0, got {self.processes}")
        for name in ("num_train_videos", "num_val_videos", "video_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
