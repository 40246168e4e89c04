"""The settings of how a run is carried out: start, processes, arithmetic, checkpoints, log."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seqformer.config.eval import KernelBackend, Precision
from seqformer.config.fields import MAY_CHANGE

AUTO_WEIGHTS = Path("auto")
"""Whatever ImageNet weights this machine has, or downloads."""


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """What the weights of a new run are."""

    weights: Path | None = field(default=None, metadata=MAY_CHANGE)
    """Start from this checkpoint (released files or ours)."""
    drop_class_heads: bool = field(default=True, metadata=MAY_CHANGE)
    """Train new class heads instead of those in `weights`; without, the file must fit exactly."""
    backbone_weights: Path | None = field(default=None, metadata=MAY_CHANGE)
    """ImageNet weights of the backbone (torchvision ResNet layout or the official Swin files); auto
    takes the published ones from the caches of torch and timm, or downloads them. `weights` go
    before."""
    from_scratch: bool = False
    """Begin with a backbone of random weights, and train all of it. Without, a run on a backbone
    that is published with ImageNet weights needs --weights or --backbone-weights."""


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How several processes share a run."""

    parallel: Literal["ddp", "fsdp", "hsdp", "none"] = field(default="ddp", metadata=MAY_CHANGE)
    """How several processes share the work. ddp: the whole model on each. fsdp: parameters,
    gradients and optimiser in shares. hsdp: shares inside a machine, repeated on every machine."""
    reshard: bool = field(default=True, metadata=MAY_CHANGE)
    """Under fsdp and hsdp, free gathered parameters after the forward pass and gather them again
    for the backward pass: less memory, more traffic."""
    hsdp_replicas: int = field(default=0, metadata=MAY_CHANGE)
    """Under hsdp, groups that repeat one another; 0: one per machine."""
    timeout_minutes: float = field(default=30.0, metadata=MAY_CHANGE)
    """A process that does not answer the others for so long ends the run."""

    def __post_init__(self) -> None:
        if self.hsdp_replicas < 0:
            raise ValueError(f"hsdp_replicas must be >= 0, got {self.hsdp_replicas}")
        if self.timeout_minutes <= 0:
            raise ValueError(f"timeout_minutes must be positive, got {self.timeout_minutes}")


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How a step is computed; the result is the same but for rounding."""

    precision: Precision = field(default="fp32", metadata=MAY_CHANGE)
    """Format of matrix products and convolutions; fp16 (V100) scales the loss. Coordinates, heads,
    losses, weights and optimiser stay float32."""
    tf32: bool = field(default=True, metadata=MAY_CHANGE)
    """Let float32 products of Ampere and later GPUs round their inputs to 10 bits; never those that
    make coordinates, logits and mask parameters, nor in validation."""
    deterministic: bool = field(default=False, metadata=MAY_CHANGE)
    """The same bits from the same run on the same machine: no operator whose result depends on the
    order in which a GPU happens to add. Somewhat slower."""
    recompute: tuple[Literal["backbone", "encoder", "decoder"], ...] = field(
        default=(), metadata=MAY_CHANGE
    )
    """Parts whose blocks keep only their inputs for the backward pass and are computed again."""
    frame_chunk: int = field(default=0, metadata=MAY_CHANGE)
    """Frames of a clip that are computed at once, for long clips: gradients stay exact, memory that
    of so many frames, time about one forward pass more. 0: all frames."""
    channels_last: bool = field(default=False, metadata=MAY_CHANGE)
    """Store the maps of a convolutional backbone with channels innermost."""
    compile: tuple[Literal["model", "backbone", "encoder", "decoder"], ...] = field(
        default=(), metadata=MAY_CHANGE
    )
    """What goes through torch.compile: the whole model as one graph (the flag alone says so), or
    the blocks of some parts. One graph takes minutes at the start, once for all sizes of frames;
    on a GPU it has not been run."""
    backend: KernelBackend | None = field(default=None, metadata=MAY_CHANGE)
    """Which implementation of the operators runs: auto, the fastest that fits; triton, the kernels
    and nothing else; reference, the plain definition. Not given, the environment variable
    SEQFORMER_KERNELS_BACKEND says it, else auto."""

    def __post_init__(self) -> None:
        if self.frame_chunk < 0:
            raise ValueError(f"frame_chunk must be >= 0, got {self.frame_chunk}")
        if "model" in self.compile and len(self.compile) > 1:
            raise ValueError("compile names the whole model and parts of it; choose one of them")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When a run keeps what it has learnt, and whether it goes on from there."""

    resume: bool = field(default=False, metadata=MAY_CHANGE)
    """Continue from the newest checkpoint in `output`, on any number of processes."""
    auto_resume: bool = field(default=False, metadata=MAY_CHANGE)
    """Continue if `output` has a checkpoint, else begin. On without asking in a run that torchrun
    or SLURM started again."""
    checkpoint_every: int = field(default=1000, metadata=MAY_CHANGE)
    """Steps between checkpoints (one is also written after each epoch and at the end)."""
    keep_checkpoints: int = field(default=3, metadata=MAY_CHANGE)
    """How many of the newest checkpoints stay; that of the best AP stays besides."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """What a run tells about itself."""

    log_every: int = field(default=10, metadata=MAY_CHANGE)
    """Steps between lines of the log."""
    tensorboard: bool = field(default=False, metadata=MAY_CHANGE)
    """Also write scalars, and masks drawn on validation clips, for TensorBoard."""
    wandb: bool = field(default=False, metadata=MAY_CHANGE)
    """The same for Weights & Biases; WANDB_MODE=offline keeps it in `output`."""
    mlflow: bool = field(default=False, metadata=MAY_CHANGE)
    """The same for MLflow; without MLFLOW_TRACKING_URI it is kept in `output`."""
    memory_report: bool = field(default=False, metadata=MAY_CHANGE)
    """Print what parameters, gradients, optimiser, activations and workspace take, and stop."""
    profile: bool = field(default=False, metadata=MAY_CHANGE)
    """Profile a few steps, write a trace and a table to `output`/profile, and stop."""

    def __post_init__(self) -> None:
        if self.log_every < 1:
            raise ValueError(f"log_every must be at least 1, got {self.log_every}")
