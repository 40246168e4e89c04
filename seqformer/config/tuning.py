"""The settings of fine-tuning: what is left alone, what is averaged, when it is enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from seqformer.config.fields import MAY_CHANGE

FrozenPart = Literal["backbone", "encoder", "decoder", "class_heads", "box_heads", "mask_head"]


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """What a run does differently from the published training."""

    freeze: tuple[FrozenPart, ...] = ()
    """Parts that keep their weights. encoder includes the projections of the backbone's maps,
    decoder the queries and reference points."""
    ema_decay: float = 0.0
    """Keep an average of the weights, of which each step retains this share (0.999 for some
    thousand steps; less in the first steps). It is what is validated and exported. 0: none."""
    layer_decay: float = 1.0
    """Factor on Swin's learning rates from each block to the one before it (0.9, say), so that its
    first layers move least. 1: the same for all."""
    patience: int = field(default=0, metadata=MAY_CHANGE)
    """Validations without a better AP after which a run ends; with `eval_every_epochs`. 0: a run
    ends where its length says."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")
        if not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"layer_decay must be in (0, 1], got {self.layer_decay}")
        if self.patience < 0:
            raise ValueError(f"patience must be >= 0, got {self.patience}")
