"""A run for TensorBoard: scalars, and predicted masks drawn on validation videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqformer.data.video_sources import VideoSource
from seqformer.trainer.logger_content import drawn_videos, scalar_names


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
        """See `RunLogger.scalars`."""
        for name, value in scalar_names(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def validation(
        self,
        step: int,
        scores: dict[str, float],
        videos: Sequence[VideoSource],
        names: Mapping[int, str],
        results: list[dict],
    ) -> None:
        """See `RunLogger.validation`."""
        for name, value in scores.items():
            self._writer.add_scalar(f"validation/{name}", value, step)
        for video_id, picture in drawn_videos(videos, names, results):
            self._writer.add_image(f"validation/video {video_id}", picture, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()
