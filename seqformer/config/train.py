"""The settings of a training run, all but those of the network, its data and inference."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seqformer.config.data import DataConfig
from seqformer.config.eval import EvalConfig, Precision
from seqformer.config.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the losses and of the matching costs. Defaults as published."""

    class_weight: float = 2.0
    """Sigmoid focal loss."""
    box_weight: float = 5.0
    """L1 distance of boxes."""
    giou_weight: float = 2.0
    """1 - generalised IoU."""
    mask_weight: float = 2.0
    """Focal loss of mask pixels."""
    dice_weight: float = 5.0
    """Dice loss of whole tracks."""
    focal_alpha: float = 0.25
    """Weight of positives in the focal losses."""
    focal_gamma: float = 2.0
    """Exponent of the focal losses."""
    cost_class: float = 2.0
    """Matching cost of classes."""
    cost_box: float = 5.0
    """Matching cost of boxes (Euclidean distance over the whole clip)."""
    cost_giou: float = 2.0
    """Matching cost of -GIoU."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its schedule. Defaults as published."""

    lr: float = 2e-4
    """Learning rate of everything not named below."""
    lr_backbone: float = 2e-5
    """Learning rate of the backbone."""
    lr_linear_proj_mult: float = 0.1
    """Factor on `lr` for sampling offsets and reference points."""
    weight_decay: float = 1e-4
    """AdamW weight decay, on every trained parameter."""
    clip_max_norm: float = 0.1
    """Largest norm of the whole gradient; 0 turns clipping off."""
    schedule: Literal["step", "cosine"] = "step"
    """step: x0.1 at `lr_drop_epochs`. cosine: to `cosine_floor` of the rate over the run."""
    lr_drop_epochs: tuple[int, ...] = (4, 10)
    """Epochs after which the learning rate drops tenfold."""
    cosine_floor: float = 0.02
    """Final share of the learning rate under the cosine schedule."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    output: Path = Path("runs/train")
    """Folder for checkpoints, log and results."""
    max_steps: int = 0
    """Stop after this many optimiser steps; 0 means `epochs` decide."""
    epochs: int = 12
    """Passes over the training set."""
    seed: int = 42
    """Seed of weights, sampling, augmentation and dropout (there each process adds its rank)."""
    resume: bool = False
    """Continue from the newest checkpoint in `output`, on any number of processes."""
    auto_resume: bool = False
    """Continue if `output` has a checkpoint, else begin. On without asking in a run that torchrun
    or SLURM started again."""
    weights: Path | None = None
    """Start from this checkpoint (released files or ours)."""
    drop_class_heads: bool = True
    """Train new class heads instead of those in `weights`; without, the file must fit exactly."""
    backbone_weights: Path | None = None
    """ImageNet weights of the backbone (torchvision ResNet layout or the official Swin files)."""
    from_scratch: bool = False
    """Begin with a backbone of random weights, and train all of it. Without, a run on a backbone
    that is published with ImageNet weights needs --weights or --backbone-weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU where there is one."""
    parallel: Literal["ddp", "fsdp", "hsdp", "none"] = "ddp"
    """How several processes share the work. ddp: the whole model on each. fsdp: parameters,
    gradients and optimiser in shares. hsdp: shares inside a machine, repeated on every machine."""
    reshard: bool = True
    """Under fsdp and hsdp, free gathered parameters after the forward pass and gather them again
    for the backward pass: less memory, more traffic."""
    hsdp_replicas: int = 0
    """Under hsdp, groups that repeat one another; 0: one per machine."""
    timeout_minutes: float = 30.0
    """A process that does not answer the others for so long ends the run."""
    precision: Precision = "fp32"
    """Format of matrix products and convolutions; fp16 (V100) scales the loss. Coordinates, heads,
    losses, weights and optimiser stay float32."""
    tf32: bool = True
    """Let float32 products of Ampere and later GPUs round their inputs to 10 bits; never those that
    make coordinates, logits and mask parameters, nor in validation."""
    deterministic: bool = False
    """The same bits from the same run on the same machine: no operator whose result depends on the
    order in which a GPU happens to add. Somewhat slower."""
    recompute: tuple[Literal["backbone", "encoder", "decoder"], ...] = ()
    """Parts whose blocks keep only their inputs for the backward pass and are computed again."""
    frame_chunk: int = 0
    """Frames of a clip that are computed at once, for long clips: gradients stay exact, memory that
    of so many frames, time about one forward pass more. 0: all frames."""
    channels_last: bool = False
    """Store the maps of a convolutional backbone with channels innermost."""
    compile: tuple[Literal["backbone", "encoder", "decoder"], ...] = ()
    """Parts whose blocks go through torch.compile."""
    memory_report: bool = False
    """Print what parameters, gradients, optimiser, activations and workspace take, and stop."""
    profile: bool = False
    """Profile a few steps, write a trace and a table to `output`/profile, and stop."""
    log_every: int = 10
    """Steps between lines of the log."""
    tensorboard: bool = False
    """Also write scalars, and masks drawn on validation clips, for TensorBoard."""
    checkpoint_every: int = 1000
    """Steps between checkpoints (one is also written after each epoch and at the end)."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints stay; that of the best AP stays besides."""
    eval_every_epochs: int = 0
    """Epochs between validations where a validation set is given; 0 validates at the end only."""
    max_skipped_steps: int = 10
    """Steps with a loss or gradient that is not finite, which are skipped, before the run stops."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        if self.max_steps < 0 or self.epochs < 1:
            raise ValueError(
                f"max_steps must be >= 0 and epochs >= 1, got {self.max_steps} and {self.epochs}"
            )
        for name in ("log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("eval_every_epochs", "max_skipped_steps", "frame_chunk", "hsdp_replicas"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.timeout_minutes <= 0:
            raise ValueError(f"timeout_minutes must be positive, got {self.timeout_minutes}")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(TrainConfig):
    """A run on synthetic videos that it draws itself under `output`/data."""

    processes: int = 0
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
