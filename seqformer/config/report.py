"""The settings of the page of a results file, and of its confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass

RESAMPLES = 1000
"""Bootstrap resamples of the videos."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What a report shows."""

    title: str = "Video instance segmentation report"
    """Heading of the page."""
    max_bytes: int = 19_000_000
    """Largest size of the page; more frames make each of them coarser."""
    max_videos: int = 50
    """Videos with frames and masks, mostly the worst; the others are listed only."""
    max_frames: int = 120
    """Frames shown of a video; of longer ones every second, every third, ..."""
    min_score: float = 0.3
    """Failures are counted, and results drawn, from this score on; the page can change it."""
    iou_threshold: float = 0.5
    """From this IoU on a result is right, for the kinds of failure: 0.50, 0.55, ... or 0.95."""
    resamples: int = RESAMPLES
    """Bootstrap resamples of the videos behind the confidence intervals."""
    seed: int = 0
    """Seed of the bootstrap."""
    upright: bool = False
    """Turn frames as their EXIF orientation says, as eval.py --upright does."""
    allow_outside: bool = False
    """Let file names of the annotation file lead out of the image folder."""

    def __post_init__(self) -> None:
        for name, least in (("max_bytes", 200_000), ("max_videos", 0), ("max_frames", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score must be between 0 and 1, got {self.min_score}")
