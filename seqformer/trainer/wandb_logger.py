"""A run for Weights & Biases, on their servers or (`WANDB_MODE=offline`) in the run's folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqformer.config.as_json import flat_settings
from seqformer.data.video_sources import VideoSource
from seqformer.trainer.logger_content import (
    drawn_videos,
    known_id,
    remember_id,
    scalar_names,
)

PROJECT = "seqformer"


class WandbLogger:
    """Scalars and drawn videos; files are under `output`/wandb.

    The library's own variables hold: WANDB_MODE, WANDB_PROJECT, WANDB_NAME and so on.
    """

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        """
        Args:
            output: the run's folder, whose name is the run's.
            settings: plain, nested.

        Raises: ValueError when the package wandb is missing or its server refuses the run.
        """
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                "--wandb needs the package wandb; install it with `pip install "
                "'seqformer[wandb]'`, or do without"
            ) from error
        self._library = wandb
        run_id = known_id(output, "wandb") or uuid.uuid4().hex[:12]
        try:
            self._run = wandb.init(
                dir=str(output),
                id=run_id,
                resume="allow",
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=os.environ.get("WANDB_NAME", output.resolve().name),
                config=flat_settings(settings),
                settings=wandb.Settings(console="off", silent=True),
            )
        except (wandb.errors.Error, OSError) as error:
            raise ValueError(
                f"Weights & Biases does not take the run ({error}); log in with `wandb login`, set "
                "WANDB_MODE=offline, or do without --wandb"
            ) from error
        remember_id(output, "wandb", run_id)

    def scalars(self, record: dict[str, Any]) -> None:
        """See `RunLogger.scalars`."""
        self._run.log(scalar_names(record), step=record["step"])

    def validation(
        self,
        step: int,
        scores: dict[str, float],
        videos: Sequence[VideoSource],
        names: Mapping[int, str],
        results: list[dict],
    ) -> None:
        """See `RunLogger.validation`."""
        content: dict[str, Any] = {f"validation/{name}": value for name, value in scores.items()}
        for video_id, picture in drawn_videos(videos, names, results):
            content[f"validation/video {video_id}"] = self._library.Image(picture)
        self._run.log(content, step=step)

    def close(self) -> None:
        """See `RunLogger.close`."""
        self._run.finish()
