"""A run for TensorBoard: scalars, and predicted masks drawn on validation videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqformer.data.video_sources import VideoSource
from seqformer.visualization.drawing import draw_video, tracks_from_entries

DRAWN_VIDEOS = 4
DRAWN_FRAMES = 4
"""Frames of a drawn video, evenly spread, side by side."""
DRAWN_MIN_SCORE = 0.3


class TensorBoardLogger:
    """Writes to `output`/tensorboard; look at it with `tensorboard --logdir OUTPUT`."""

    def __init__(self, output: Path) -> None:
        """Raises: ValueError when the package tensorboard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                "--tensorboard needs the package tensorboard; install it with "
                "`pip install 'seqformer[tensorboard]'`, or do without"
            ) from error
        self._writer = SummaryWriter(str(output / "tensorboard"))

    def scalars(self, record: dict[str, Any]) -> None:
        """The numbers of a training line, at its step."""
        for name, value in record.items():
            if name not in ("step", "epoch"):
                kind = "loss" if name.startswith("loss") else "run"
                self._writer.add_scalar(f"{kind}/{name}", value, record["step"])

    def validation(
        self,
        step: int,
        scores: dict[str, float],
        videos: Sequence[VideoSource],
        names: Mapping[int, str],
        results: list[dict],
    ) -> None:
        """Scores, and the first videos with what was found in them.

        Args:
            step: optimiser steps so far.
            scores: by name.
            videos: the validation set.
            names: category id -> name.
            results: entries of results.json.
        """
        for name, value in scores.items():
            self._writer.add_scalar(f"validation/{name}", value, step)
        for video in videos[:DRAWN_VIDEOS]:
            entries = [entry for entry in results if entry["video_id"] == video.video_id]
            tracks = tracks_from_entries(entries)
            drawn = draw_video(video.frames(), tracks, names, DRAWN_MIN_SCORE)
            chosen = np.linspace(0, len(drawn) - 1, min(DRAWN_FRAMES, len(drawn))).round()
            picture = np.concatenate([drawn[int(index)] for index in chosen], axis=1)
            self._writer.add_image(
                f"validation/video {video.video_id}", picture, step, dataformats="HWC"
            )
        self._writer.flush()

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()
