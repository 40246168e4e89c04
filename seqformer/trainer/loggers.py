"""Where a run is shown besides its own log: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from seqformer.config import TrainConfig, config_to_dict
from seqformer.data.video_sources import VideoSource


class RunLogger(Protocol):
    """One place that a run is shown in; only rank 0 has any."""

    def scalars(self, record: dict[str, Any]) -> None:
        """The numbers of a training line, at its step."""

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

    def close(self) -> None:
        """Write what is pending."""


class RunLoggers:
    """All that a run has, as one."""

    def __init__(self, loggers: Sequence[RunLogger] = ()) -> None:
        self._loggers = tuple(loggers)

    def __bool__(self) -> bool:
        return bool(self._loggers)

    def scalars(self, record: dict[str, Any]) -> None:
        """See `RunLogger.scalars`."""
        for one in self._loggers:
            one.scalars(record)

    def validation(self, *content: Any) -> None:
        """See `RunLogger.validation`."""
        for one in self._loggers:
            one.validation(*content)

    def close(self) -> None:
        """See `RunLogger.close`."""
        for one in self._loggers:
            one.close()


def build_loggers(config: TrainConfig, is_main: bool) -> RunLoggers:
    """Those that a config asks for; none elsewhere than on rank 0.

    Raises: ValueError saying what to install or to set.
    """
    loggers: list[RunLogger] = []
    if is_main and config.logging.tensorboard:
        from seqformer.trainer.tensorboard import TensorBoardLogger

        loggers.append(TensorBoardLogger(config.output))
    if is_main and config.logging.wandb:
        from seqformer.trainer.wandb_logger import WandbLogger

        loggers.append(WandbLogger(config.output, config_to_dict(config)))
    if is_main and config.logging.mlflow:
        from seqformer.trainer.mlflow_logger import MlflowLogger

        loggers.append(MlflowLogger(config.output, config_to_dict(config)))
    return RunLoggers(loggers)
