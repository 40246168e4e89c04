"""Validation during training: whole videos, or single pictures, through the predictor, scored as a
benchmark would; the weights with the best AP are exported.

The processes share the videos; rank 0 writes results.json and scores it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqformer.annotations.ytvis import load_annotation_file
from seqformer.config import DataConfig, EvalConfig, TrainConfig
from seqformer.data.stills import listed_stills
from seqformer.data.video_sources import VideoSource, listed_videos
from seqformer.distributed.context import DistributedContext
from seqformer.evaluation import score
from seqformer.evaluation.coco_metric import evaluate_coco
from seqformer.inference import Predictor
from seqformer.inference.results_file import load_results, write_results
from seqformer.inference.runner import FinishedInMemory, Helpers, predict_videos
from seqformer.inference.video_shares import own_share
from seqformer.model.seqformer import SeqFormer
from seqformer.structures import ClassMap
from seqformer.trainer.best_checkpoint import BestCheckpoint
from seqformer.trainer.errors import StoppedError
from seqformer.trainer.export import export_weights
from seqformer.trainer.loggers import RunLoggers
from seqformer.trainer.parallel_model import ParallelModel
from seqformer.trainer.run_log import LOG_NAME, read_log
from seqformer.trainer.signals import StopRequest
from seqformer.visualization.stills import as_video_entries

logger = logging.getLogger(__name__)

BEST_WEIGHTS_NAME = "best.safetensors"
SCORES = ("AP", "AP50", "AP75")
"""What the log and boards show of the metrics."""


@dataclass(frozen=True, kw_only=True)
class ValidationSet:
    """The validation videos of a run, or its pictures.

    Attributes:
        annotations: the annotation file.
        videos: what it lists; of stills each is a picture.
        names: category id -> name.
        has_instances: whether there is anything to score against.
    """

    annotations: Path
    videos: list[VideoSource]
    names: dict[int, str]
    has_instances: bool

    @classmethod
    def from_config(cls, config: DataConfig) -> ValidationSet | None:
        """The set of a config; None where it names none.

        Raises: FileNotFoundError or ValueError when annotations or frames are not there, which a
            user wants to know before training.
        """
        if config.val_annotations is None or config.val_images is None:
            return None
        if config.layout == "stills":
            stills = listed_stills(config.val_annotations, config.val_images, config.allow_outside)
            videos, names, has_instances = stills.sources, stills.names, stills.has_instances
        else:
            content = load_annotation_file(config.val_annotations)
            videos = listed_videos(content, config.val_images)
            names = {c["id"]: c["name"] for c in content.categories}
            has_instances = any(video.instances for video in content.videos)
        for path in videos[0].paths[:1]:
            if not path.is_file():
                raise FileNotFoundError(
                    f"validation frame {path} does not exist; --data.val-images must be the folder "
                    f"that the file names in {config.val_annotations} start from"
                )
        return cls(
            annotations=config.val_annotations,
            videos=videos,
            names=names,
            has_instances=has_instances,
        )

    def score(
        self,
        model: SeqFormer,
        classes: ClassMap,
        config: EvalConfig,
        parallel: DistributedContext,
        output: Path,
        stop: StopRequest | None = None,
    ) -> dict[str, Any]:
        """Write results.json and print the AP table. All processes take part.

        A video that cannot be read is warned of, and counts as one without results.

        Args:
            stop: looked at between two videos.

        Returns: on rank 0 the metrics, plain types, AP in 0..1; empty elsewhere, and where there
            are no instances to score against.
        Raises: StoppedError on every process when one is asked to stop; nothing is written then.
        """
        kind = "pictures" if self._are_stills else "videos"
        logger.info("validating on %d %s", len(self.videos), kind)
        predictor = Predictor(model, classes, config, parallel.device)
        own = FinishedInMemory()
        failures = predict_videos(
            predictor,
            own_share(self.videos, parallel),
            own,
            helpers=Helpers.of(parallel.device, None, None),
            show_progress=False,
            should_stop=lambda: stop is not None and stop.received is not None,
        )
        for failure in failures:
            logger.warning("validation counts %s as one without results", failure)
        is_stopped = stop is not None and stop.received is not None
        answers = parallel.gather((own.finished, is_stopped))
        if any(is_stopped for _, is_stopped in answers):
            raise StoppedError
        if not parallel.is_main:
            return {}
        finished = {video_id: e for share, _ in answers for video_id, e in share.items()}
        results = [e for video in self.videos for e in finished.get(video.video_id, [])]
        write_results(output / "results.json", results)
        if not self.has_instances:
            logger.warning("%s holds no instances, so there is no AP", self.annotations)
            return {}
        if self._are_stills:
            pictures = evaluate_coco(self.annotations, results)
            logger.info("%s", pictures.table())
            return pictures.to_dict()
        scores = score(self.annotations, results)
        logger.info("%s", scores.table())
        return scores.to_dict()

    @property
    def _are_stills(self) -> bool:
        return any(video.is_still for video in self.videos)

    def check_classes(self, classes: ClassMap) -> None:
        """Make sure that pictures are scored in the classes that are learnt.

        Raises: ValueError when the validation file is of another edition.
        """
        own = dict(zip(classes.ids, classes.names, strict=True))
        if self._are_stills and not any(own.get(i) == name for i, name in self.names.items()):
            raise ValueError(
                f"{self.annotations} has no category of the training file; training and validation "
                "must be of the same edition of classes"
            )


class Validator:
    """Scores a run now and then, and keeps what was best.

    Attributes:
        best: where the AP was highest.
    """

    def __init__(
        self,
        config: TrainConfig,
        classes: ClassMap,
        parallel: DistributedContext,
        loggers: RunLoggers,
    ) -> None:
        """
        Args:
            config: the run.
            classes: what the classifier's outputs stand for.
            parallel: the processes.
            loggers: where scores and pictures go too; rank 0 only.

        Raises: as `ValidationSet.from_config`.
        """
        self._config, self._classes, self._parallel = config, classes, parallel
        self._loggers = loggers
        self._set = ValidationSet.from_config(config.data)
        if self._set is not None:
            self._set.check_classes(classes)
        self.best = BestCheckpoint.read(config.output)

    def is_due(self, step: int, steps_per_epoch: int) -> bool:
        """Whether the run is validated after this step, besides at its end."""
        every = self._config.eval_every_epochs
        epoch, rest = divmod(step, steps_per_epoch)
        return every > 0 and rest == 0 and epoch % every == 0

    def is_missing(self, step: int, steps_per_epoch: int) -> bool:
        """Whether the run ended in, or just before, the validation of this step."""
        missing = False
        if step and self.is_due(step, steps_per_epoch) and self._parallel.is_main:
            log = read_log(self._config.output / LOG_NAME)
            missing = not any("validation" in r and r.get("step") == step for r in log)
        return self._parallel.gather(missing)[0]

    def has_waited_enough(self, step: int, steps_per_epoch: int) -> bool:
        """Whether `patience` validations after the best one have not been better."""
        patience, best = self._config.tuning.patience, self.best.step
        if not patience:
            return False
        between = self._config.eval_every_epochs * steps_per_epoch
        is_enough = best is not None and (step - best) // between >= patience
        return self._parallel.gather(is_enough)[0]

    def score(
        self, parallel_model: ParallelModel, step: int, stop: StopRequest | None = None
    ) -> dict[str, Any]:
        """Score the weights of now, and export them if they are the best. All processes take part.

        Returns: the metrics on rank 0; empty elsewhere, and where there is nothing to score.
        Raises: StoppedError on every process when one is asked to stop.
        """
        if self._set is None:
            return {}
        output = self._config.output
        metrics = self._set.score(
            parallel_model.plain_copy(),
            self._classes,
            self._config.eval,
            self._parallel,
            output,
            stop,
        )
        ap = self._parallel.gather(metrics.get("AP"))[0]
        if ap is None:
            return {}
        if self.best.improves(ap):
            self.best = BestCheckpoint(step, ap)
            weights = output / BEST_WEIGHTS_NAME
            export_weights(weights, parallel_model, self._classes, self._config.eval)
            if self._parallel.is_main:
                self.best.write(output)
        if self._loggers:
            scores = {name: metrics[name] for name in SCORES}
            results = load_results(output / "results.json")
            if self._config.data.layout == "stills":
                results = as_video_entries(results)
            self._loggers.validation(step, scores, self._set.videos, self._set.names, results)
        return metrics
