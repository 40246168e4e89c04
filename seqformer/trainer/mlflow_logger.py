"""A run for MLflow: on a tracking server, or in a file of the run's folder."""

from __future__ import annotations

import logging
import os
import time
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

logger = logging.getLogger(__name__)

EXPERIMENT = "seqformer"
_MOST_PARAMETERS = 100
_LONGEST_VALUE = 500


class MlflowLogger:
    """Scalars, settings and drawn videos.

    MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where they go; by default that is
    `output`/mlflow.db, which `mlflow ui --backend-store-uri sqlite:///OUTPUT/mlflow.db` shows.
    """

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        """
        Args:
            output: the run's folder, whose name is the run's.
            settings: plain, nested.

        Raises: ValueError when the package mlflow is missing or the place cannot be written.
        """
        try:
            from mlflow.entities import Metric, Param
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ValueError(
                "--mlflow needs the package mlflow; install it with `pip install "
                "'seqformer[mlflow]'`, or do without"
            ) from error
        self._metric, self._error = Metric, MlflowException
        local = f"sqlite:///{(output / 'mlflow.db').resolve()}"
        place = os.environ.get("MLFLOW_TRACKING_URI") or local
        try:
            self._client = MlflowClient(tracking_uri=place)
            self._id = self._begin(output, place == local)
            flat = flat_settings(settings)
            parameters = [Param(k, str(v)[:_LONGEST_VALUE]) for k, v in sorted(flat.items())]
            for first in range(0, len(parameters), _MOST_PARAMETERS):
                few = parameters[first : first + _MOST_PARAMETERS]
                self._try("the settings", self._client.log_batch, self._id, params=few)
        except (MlflowException, OSError) as error:
            raise ValueError(
                f"MLflow does not take the run at {place} ({error}); see to "
                "MLFLOW_TRACKING_URI, or do without --mlflow"
            ) from error

    def _begin(self, output: Path, is_local: bool) -> str:
        """The id of the run: a new one, or that of an earlier session."""
        known = known_id(output, "mlflow")
        if known is not None:
            try:
                self._client.get_run(known)
                self._client.update_run(known, status="RUNNING")
                return known
            except self._error:
                logger.warning("MLflow does not know run %s any more; a new one begins", known)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            files = (output / "mlflow").resolve().as_uri() if is_local else None
            experiment_id = self._client.create_experiment(name, artifact_location=files)
        else:
            experiment_id = experiment.experiment_id
        run = self._client.create_run(experiment_id, run_name=output.resolve().name)
        remember_id(output, "mlflow", run.info.run_id)
        return run.info.run_id

    def _try(self, what: str, call: Any, *arguments: Any, **named: Any) -> None:
        """Call the service; that it fails is said, and the run goes on."""
        try:
            call(*arguments, **named)
        except (self._error, OSError) as error:
            logger.warning("MLflow did not take %s: %s", what, str(error).splitlines()[0])

    def _log(self, step: int, values: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(name, float(v), now, step) for name, v in values.items()]
        self._try(f"the numbers of step {step}", self._client.log_batch, self._id, metrics=metrics)

    def scalars(self, record: dict[str, Any]) -> None:
        """See `RunLogger.scalars`."""
        self._log(record["step"], scalar_names(record))

    def validation(
        self,
        step: int,
        scores: dict[str, float],
        videos: Sequence[VideoSource],
        names: Mapping[int, str],
        results: list[dict],
    ) -> None:
        """See `RunLogger.validation`."""
        self._log(step, {f"validation/{name}": value for name, value in scores.items()})
        for video_id, picture in drawn_videos(videos, names, results):
            name = f"validation/step_{step:08d}_video_{video_id}.png"
            self._try(name, self._client.log_image, self._id, picture, artifact_file=name)

    def close(self) -> None:
        """See `RunLogger.close`."""
        self._try("the end of the run", self._client.set_terminated, self._id)
