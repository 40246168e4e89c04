"""Every setting of a run: frozen dataclasses, the named presets, and nowhere else a default.

Those of the training data are in `config_data.py` and imported here. The text under a field is its
`--help`. `train.py PRESET --data.num-frames 3` overrides one field of a preset. Conflicts are
refused here, in words, before anything starts.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from seqformer.config_data import AugmentConfig, DataConfig

BackboneName = Literal[
    "resnet50",
    "resnet101",
    "resnext101_32x8d",
    "swin_t",
    "swin_s",
    "swin_b",
    "swin_l",
    "resnet_mini",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network. Defaults are the published model."""

    backbone: BackboneName = "resnet50"
    """Feature extractor. resnet_mini is the small GroupNorm network of the demo."""
    num_classes: int = 42
    """K, classifier outputs. In training the class map of the data decides it."""
    hidden_dim: int = 256
    """C, width of encoder and decoder."""
    num_heads: int = 8
    """M, attention heads."""
    num_levels: int = 4
    """L, feature levels: the backbone's last three stages and strided convolutions after them."""
    num_points: int = 4
    """P, sampling points per head and level."""
    num_encoder_layers: int = 6
    """Deformable encoder layers, run on each frame alone."""
    num_decoder_layers: int = 6
    """Decoder layers; each has its own class and box head."""
    ffn_dim: int = 1024
    """Hidden width of the feed-forward blocks."""
    num_queries: int = 300
    """Q, instance queries per clip."""
    mask_dim: int = 64
    """Channels of the mask branch before its last convolution."""
    dropout: float = 0.0
    """Dropout probability in encoder and decoder."""
    drop_path: float = 0.0
    """Largest stochastic depth rate of Swin, linear over its blocks (published: t/s 0.2, l 0.3)."""

    def __post_init__(self) -> None:
        for name in ("hidden_dim", "num_heads", "num_points", "ffn_dim", "mask_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"hidden_dim {self.hidden_dim} must be a multiple of num_heads {self.num_heads}"
            )
        if self.hidden_dim % 32:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be a multiple of 32 (GroupNorm)")
        if self.num_levels < 3:
            raise ValueError(f"num_levels is {self.num_levels}; the mask branch needs at least 3")
        for name in ("num_classes", "num_queries", "num_encoder_layers", "num_decoder_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("dropout", "drop_path"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


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


Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Inference on whole videos. Defaults as published."""

    short_side: int = 360
    """Frames are resized so that their shorter side has this many pixels."""
    top_k: int = 10
    """Largest (query, class) scores of a video that become results."""
    min_score: float = 0.001
    """Results below this score carry no masks."""
    mode: Literal["whole", "clips"] = "whole"
    """whole: the video is one clip, as published. clips: overlapping clips whose tracks are joined,
    for videos that are too long or changeful for one query per object."""
    clip_length: int = 10
    """Frames of a clip in mode clips."""
    clip_stride: int = 5
    """Frames from the start of one clip to that of the next; the rest of it is shared."""
    match_threshold: float = 0.1
    """Soft mask IoU on the shared frames from which two clips' instances are one track, in 0..1."""
    chunk_frames: int | None = None
    """Frames that go through the network together; by default what fits into the free memory.
    Results are the same but for rounding."""
    precision: Precision = "fp32"
    """Of the per-frame part; positions, sums over time and instance queries stay fp32."""

    def __post_init__(self) -> None:
        if not 1 <= self.clip_stride <= self.clip_length:
            raise ValueError(
                f"clip_stride must be in 1..clip_length so that clips share or touch frames, got "
                f"stride {self.clip_stride} and length {self.clip_length}"
            )
        if not 0 <= self.match_threshold <= 1:
            raise ValueError(f"match_threshold must be in 0..1, got {self.match_threshold}")
        if self.chunk_frames is not None and self.chunk_frames < 1:
            raise ValueError(f"chunk_frames must be at least 1, got {self.chunk_frames}")
        if self.short_side < 1 or self.top_k < 1:
            raise ValueError(
                f"short_side and top_k must be at least 1, got {self.short_side} and {self.top_k}"
            )


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
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
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


def config_to_dict(config: Any) -> dict:
    """A config as plain JSON types (paths become strings)."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return plain(asdict(config))


def config_from_dict(cls: type, state: dict) -> Any:
    """Inverse of `config_to_dict` for a config of known class.

    Raises: ValueError naming fields that the class does not have, or whose value is of another
        kind.
    """
    if not isinstance(state, dict):
        raise ValueError(f"{cls.__name__} is to be made of {state!r:.40}, which is no table")
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    unknown = sorted(set(state) - set(known))
    if unknown:
        raise ValueError(f"{cls.__name__} has no fields {unknown}; the file is of another version")
    values = {}
    for name, value in state.items():
        kind = _NESTED.get((cls.__name__, name))
        if kind is not None:
            value = config_from_dict(kind, value)
        else:
            value = _as_held(value, "Path" in str(known[name].type))
        if kind is None and not _is_of(value, hints[name]):
            raise ValueError(f"{cls.__name__}.{name} is {value!r:.60}; needed is {hints[name]}")
        values[name] = value
    return cls(**values)


def _as_held(value: Any, is_path: bool) -> Any:
    """Lists of JSON become tuples, and texts paths where the field holds such."""
    if isinstance(value, list):
        return tuple(_as_held(one, is_path) for one in value)
    return Path(value) if is_path and isinstance(value, str) else value


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in arguments)
    if origin in (Union, UnionType):
        return any(_is_of(value, a) for a in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_is_of(v, arguments[0]) for v in value)
        return len(value) == len(arguments) and all(map(_is_of, value, arguments))
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint if hint in (int, bool, str) else isinstance(value, hint)


_NESTED = {
    (cls.__name__, f.name): f.default_factory
    for cls in (TrainConfig, DemoConfig, DataConfig)
    for f in fields(cls)
    if is_dataclass(f.default_factory)
}


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
    """A small model that learns moving shapes from scratch."""
    return DemoConfig(
        output=Path("runs/demo"),
        max_steps=1500,
        seed=0,
        log_every=20,
        checkpoint_every=500,
        model=_MINI_MODEL,
        data=DataConfig(
            num_frames=2,
            batch_size=4,
            num_workers=0,
            cache_frames=True,
            augment=AugmentConfig(
                photometric=False, short_sides=(64,), max_long_side=96, crop_prob=0.0
            ),
        ),
        optim=_FROM_SCRATCH,
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
    """name -> (one line of help, config)."""
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
        "swin_l": ("Swin-L", _one_clip(_published("swin_l", output=Path("runs/swin_l")))),
    }
