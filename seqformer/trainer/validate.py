"""Validation during training: whole videos through the predictor, scored as a benchmark would.

The processes share the videos; rank 0 writes results.json and scores it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from seqformer.config import DataConfig, EvalConfig
from seqformer.data.ytvis import load_annotation_file
from seqformer.evaluation import evaluate, format_table
from seqformer.inference import Predictor
from seqformer.inference.results import write_json
from seqformer.inference.sources import VideoSource, listed_videos
from seqformer.structures import ClassMap
from seqformer.trainer.parallel import Parallel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ValidationSet:
    """The validation videos of a run.

    Attributes:
        annotations: the annotation file.
        videos: what it lists.
        has_instances: whether there is anything to score against.
    """

    annotations: Path
    videos: list[VideoSource]
    has_instances: bool

    @classmethod
    def from_config(cls, config: DataConfig) -> ValidationSet | None:
        """The set of a config; None where it names none.

        Raises: FileNotFoundError or ValueError when annotations or frames are not there, which a
            user wants to know before training.
        """
        if config.val_annotations is None or config.val_images is None:
            return None
        content = load_annotation_file(config.val_annotations)
        videos = listed_videos(content, config.val_images)
        for path in videos[0].paths[:1]:
            if not path.is_file():
                raise FileNotFoundError(
                    f"validation frame {path} does not exist; --data.val-images must be the folder "
                    f"that the file names in {config.val_annotations} start from"
                )
        return cls(
            annotations=config.val_annotations,
            videos=videos,
            has_instances=any(video.instances for video in content.videos),
        )

    def score(
        self,
        model: nn.Module,
        classes: ClassMap,
        config: EvalConfig,
        parallel: Parallel,
        output: Path,
    ) -> dict[str, Any]:
        """Write results.json and print the AP table. All processes take part.

        Returns: on rank 0 the metrics, plain types, AP in 0..1; empty elsewhere, and where there
            are no instances to score against.
        """
        logger.info("validating on %d videos", len(self.videos))
        predictor = Predictor(model, classes, config, parallel.device)
        own = []
        for index in range(parallel.rank, len(self.videos), parallel.world_size):
            video = self.videos[index]
            prediction = predictor.predict(video.frames())
            own.append((index, prediction.entries(video.video_id, video.first_file_name)))
        shares = parallel.gather(own)
        if not parallel.is_main:
            return {}
        in_order = sorted((part for share in shares for part in share), key=lambda part: part[0])
        results = [entry for _, entries in in_order for entry in entries]
        write_json(output / "results.json", results)
        if not self.has_instances:
            logger.warning("%s holds no instances, so there is no AP", self.annotations)
            return {}
        metrics = evaluate(self.annotations, results)
        logger.info("%s", format_table(metrics))
        return metrics.to_dict()
