"""The settings of what is learnt: losses, matching costs, optimiser and schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


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
    muon: float = 0.0
    """Where positive, Muon trains the matrices inside the network, at this factor of their rate;
    AdamW the rest. Training from scratch takes fewer steps (2 is a good value); not published, and
    not for fsdp."""
    weight_decay: float = 1e-4
    """AdamW weight decay, on every trained parameter."""
    clip_max_norm: float = 0.1
    """Largest norm of the whole gradient; 0 turns clipping off."""
    schedule: Literal["step", "cosine"] = "step"
    """step: x0.1 at `lr_drop_epochs` or `lr_drop_steps`. cosine: to `cosine_floor` of the rate over
    the run."""
    lr_drop_epochs: tuple[int, ...] = (4, 10)
    """Epochs after which the learning rate drops tenfold."""
    lr_drop_steps: tuple[int, ...] = ()
    """Steps after which it drops; where there are any, `lr_drop_epochs` do not count."""
    cosine_floor: float = 0.02
    """Final share of the learning rate under the cosine schedule."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    warmup_factor: float | None = None
    """Share of the rate that warm-up begins with, in 0..1 (1: no warm-up); none: that of one step,
    1 / (`warmup_steps` + 1)."""

    def __post_init__(self) -> None:
        if self.warmup_factor is not None and not 0 <= self.warmup_factor <= 1:
            raise ValueError(f"optim.warmup_factor must be in 0..1, got {self.warmup_factor}")
        if not 0 <= self.muon < math.inf:
            raise ValueError(f"optim.muon must be 0 or a positive factor, got {self.muon}")
        if min(self.lr_drop_steps, default=0) < 0 or self.warmup_steps < 0:
            raise ValueError("optim.lr_drop_steps and optim.warmup_steps must not be negative")
