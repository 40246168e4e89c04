"""The settings of inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
