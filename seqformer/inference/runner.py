"""Many videos through one predictor: a broken one is reported and the others go on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from seqformer.config import EvalConfig
from seqformer.inference.predictor import Predictor
from seqformer.inference.results import PartialResults
from seqformer.inference.sources import VideoSource

logger = logging.getLogger(__name__)
Entries = list[dict[str, Any]]


def run_settings(
    weights: Path, config: EvalConfig, sources: Sequence[VideoSource]
) -> dict[str, Any]:
    """What decides the results: a run may only be continued where all of it is equal."""
    with weights.open("rb") as file:
        weights_digest = hashlib.file_digest(file, "sha256").hexdigest()
    videos = [(s.video_id, s.first_file_name, [str(p.resolve()) for p in s.paths]) for s in sources]
    return {
        "format": 1,
        "weights": str(weights),
        "weights_sha256": weights_digest,
        "videos_sha256": hashlib.sha256(repr(videos).encode()).hexdigest(),
        **asdict(config),
    }


def predict_videos(
    predictor: Predictor,
    sources: Sequence[VideoSource],
    partial: PartialResults,
    on_video: Callable[[VideoSource, Entries], None] | None = None,
) -> list[str]:
    """Run every video that `partial` does not hold yet, and record it there.

    Args:
        on_video: called with the entries of every video, finished earlier or now.

    Returns: one sentence per video that failed.
    """
    failures: list[str] = []
    with logging_redirect_tqdm(), tqdm(sources, unit="video", dynamic_ncols=True) as progress:
        for source in progress:
            progress.set_postfix_str(source.name, refresh=False)
            try:
                if source.video_id not in partial.finished:
                    prediction = predictor.predict(source.frames())
                    entries = prediction.entries(source.video_id, source.first_file_name)
                    partial.add(source.video_id, entries)
                    if source.listed_size not in (None, prediction.frame_size):
                        logger.warning(
                            "%s has frames of %s (height, width) but the annotation file says %s; "
                            "masks have the size of the frames, so scoring will not count them",
                            source,
                            prediction.frame_size,
                            source.listed_size,
                        )
                if on_video is not None:
                    on_video(source, partial.finished[source.video_id])
            except (ValueError, OSError) as error:
                is_done = source.video_id in partial.finished
                what = "results are kept, but drawing failed: " if is_done else ""
                failures.append(f"{source}: {what}{error}")
            except (torch.OutOfMemoryError, MemoryError):
                failures.append(
                    f"{source}: {len(source.paths)} frames do not fit into the memory of "
                    f"{predictor.device}; try a smaller --short-side"
                )
                torch.cuda.empty_cache()
            else:
                continue
            logger.error("%s", failures[-1])
            logger.debug("where it happened:", exc_info=True)
    return failures
