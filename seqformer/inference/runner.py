"""Many videos through one predictor per process: none is lost, whatever happens to the others.

An evaluation and the validation of a training run both come here. The processes share the videos
by length. Each finished video is on disk at once; what an earlier run of the same settings has
finished is not done again. A video that fails is reported and tried once more at the end, decoded
in this process. Frames are decoded ahead and masks compressed in the background, so that the
network has to wait little; how much is reported. A video for which memory was too small is tried
again with half the frames at once, and half of those.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from seqformer.command import is_out_of_memory, sentence_of
from seqformer.data.video_sources import VideoSource
from seqformer.distributed.context import DistributedContext
from seqformer.inference.coco_results import predict
from seqformer.inference.frame_loader import FrameLoader, Resized
from seqformer.inference.mask_encoder import MaskEncoder
from seqformer.inference.predictor import Predictor
from seqformer.inference.results_file import PartialResults, partial_path
from seqformer.inference.video_shares import own_share

logger = logging.getLogger(__name__)
Entries = list[dict[str, Any]]
OnVideo = Callable[[VideoSource, Entries], None]


@dataclass(frozen=True)
class Failure:
    """A video without results, or with results that could not be drawn.

    Attributes:
        video_id: its number.
        sentence: which video, and why.
    """

    video_id: int
    sentence: str

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, kw_only=True)
class Helpers:
    """Processes beside the one that computes, per rank."""

    decode_workers: int = 0
    encode_workers: int = 0

    @classmethod
    def of(cls, device: torch.device, decode: int | None, encode: int | None) -> Helpers:
        """What was asked for, else 4 and 2 beside a GPU; a CPU has no time to spare for them."""
        usual = (4, 2) if device.type == "cuda" else (0, 0)
        asked = [
            n if given is None else given for given, n in zip((decode, encode), usual, strict=True)
        ]
        return cls(decode_workers=asked[0], encode_workers=asked[1])


class Finished(Protocol):
    """Where the entries of finished videos go.

    Attributes:
        finished: video id -> its entries.
    """

    finished: dict[int, Entries]

    def add(self, video_id: int, entries: Entries) -> None:
        """Record a video. Raises: WriteError when it cannot be kept."""


class FinishedInMemory:
    """Entries that are kept in memory only."""

    def __init__(self) -> None:
        self.finished: dict[int, Entries] = {}

    def add(self, video_id: int, entries: Entries) -> None:
        """Record a video."""
        self.finished[video_id] = entries


def predict_shared(
    predictor: Predictor,
    sources: Sequence[VideoSource],
    output: Path,
    settings: dict[str, Any],
    fresh: bool,
    ranks: DistributedContext,
    helpers: Helpers,
    on_video: OnVideo | None = None,
) -> tuple[PartialResults | None, list[Failure]]:
    """Run the videos that no earlier run has finished, shared among the ranks.

    Args:
        output: the results file that this is for.
        settings: the same on every rank.
        on_video: called with the entries of every video on some rank, finished earlier or now.

    Returns: on rank 0 all finished videos and those that failed; elsewhere None and the failures.
    Raises: WriteError when results cannot be kept.
    """
    if ranks.is_main:
        partial = PartialResults.continue_all(output, settings, fresh)
        finished = ranks.from_main(
            partial.finished if on_video else dict.fromkeys(partial.finished)
        )
    else:
        finished = ranks.from_main({})
        partial = PartialResults(partial_path(output, ranks.rank), settings, fresh=True)
    try:
        own = own_share(sources, ranks, finished)
        drawn = [s for s in own if s.video_id in finished] if on_video else []
        todo = [s for s in own if s.video_id not in finished]
        failures = [
            failure
            for source in drawn
            if on_video and (failure := _draw(on_video, source, finished[source.video_id] or []))
        ]
        failures += predict_videos(predictor, todo, partial, on_video, helpers, ranks.is_main)
    finally:
        partial.close()
    reports = ranks.gather(failures)  # every rank's file is complete after this
    failures = [failure for report in reports for failure in report]
    if not ranks.is_main:
        return None, failures
    return PartialResults.continue_all(output, settings), failures


def predict_videos(
    predictor: Predictor,
    sources: Sequence[VideoSource],
    partial: Finished,
    on_video: OnVideo | None = None,
    helpers: Helpers | None = None,
    show_progress: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Failure]:
    """Run videos and record each in `partial` as soon as it is finished.

    Args:
        should_stop: asked before each video; after a yes no further one is begun.

    Returns: the videos that failed twice.
    Raises: WriteError when results cannot be kept.
    """
    if not sources:
        return []
    helpers = helpers or Helpers()
    start = time.perf_counter()
    loader = FrameLoader(sources, _sides(predictor), helpers.decode_workers)
    predictor.encoder = MaskEncoder(helpers.encode_workers)
    progress = tqdm(sources, unit="video", dynamic_ncols=True, disable=not show_progress)
    again: list[tuple[VideoSource, _Problem]] = []
    failures: list[Failure] = []
    try:
        with logging_redirect_tqdm(), progress:
            for index, source in enumerate(progress):
                if should_stop():
                    return failures
                progress.set_postfix_str(source.name, refresh=False)
                problem = _predict(predictor, source, loader.frames(index), partial)
                if problem:
                    again.append((source, problem))
                    logger.warning(
                        "%s: %s (it is tried once more at the end)", source, problem.text
                    )
                elif on_video:
                    failures += filter(None, [_draw(on_video, source, _entries(partial, source))])
            loader.close()
            for source, problem in again:
                if should_stop():
                    return failures
                problem = _predict_again(predictor, source, problem, partial)
                if problem:
                    failures.append(Failure(source.video_id, f"{source}: {problem.text}"))
                    logger.error("%s", failures[-1])
                elif on_video:
                    failures += filter(None, [_draw(on_video, source, _entries(partial, source))])
    finally:
        loader.close()
        predictor.encoder.close()
        encoder, predictor.encoder = predictor.encoder, MaskEncoder()
    total = time.perf_counter() - start
    waited = loader.waited + encoder.waited
    logger.info(
        "%d videos in %.1f s; idle share of the network at most %.1f %% (waiting: frames %.1f s, "
        "compressed masks %.1f s)",
        len(sources),
        total,
        100 * waited / total,
        loader.waited,
        encoder.waited,
    )
    return failures


@dataclass(frozen=True)
class _Problem:
    """Why a video failed."""

    text: str
    is_memory: bool = False


def _predict_again(
    predictor: Predictor, source: VideoSource, problem: _Problem, partial: Finished
) -> _Problem | None:
    """A video that failed, decoded here; after lack of memory, with ever fewer frames at once.

    Returns: what went wrong the last time, or None.
    """
    config = predictor.config
    frames_at_once = config.chunk_frames or predictor.default_chunk_frames()
    try:
        while True:
            if problem.is_memory:
                frames_at_once = max(1, frames_at_once // 2)
                predictor.config = replace(config, chunk_frames=frames_at_once)
            frames = FrameLoader([source], _sides(predictor)).frames(0)
            last = _predict(predictor, source, frames, partial)
            if last is None or not last.is_memory or frames_at_once == 1:
                return last
            problem = last
    finally:
        predictor.config = config


def _predict(
    predictor: Predictor, source: VideoSource, frames: Iterable[Resized], partial: Finished
) -> _Problem | None:
    """Run and record one video. Returns: what went wrong with it, or None.

    Raises: WriteError when its results cannot be kept.
    """
    problem: _Problem | None = None
    try:
        prediction, entries = predict(predictor, source, frames)
    except (ValueError, OSError, RuntimeError, MemoryError, cv2.error) as error:
        problem = _problem_of(error, predictor.device)
    if problem:  # outside that block, where no traceback keeps activations alive
        if problem.is_memory:
            _free(predictor.device)
        return problem
    partial.add(source.video_id, entries)
    if source.listed_size not in (None, prediction.frame_size):
        logger.warning(
            "%s has frames of %s (height, width) but the annotation file says %s; masks have the "
            "size of the frames, so scoring will not count them",
            source,
            prediction.frame_size,
            source.listed_size,
        )
    return None


def _sides(predictor: Predictor) -> tuple[int, int]:
    return predictor.config.short_side, predictor.config.max_long_side


def _problem_of(error: Exception, device: torch.device) -> _Problem:
    """What went wrong with a video. Raises: the error itself if it is none of a video's."""
    if is_out_of_memory(error):
        return _Problem(
            f"a chunk of its frames does not fit into the memory of {device}; give a smaller "
            "--chunk-frames or --short-side",
            is_memory=True,
        )
    if not isinstance(error, (ValueError, OSError)):
        raise error
    logger.debug("where it happened:", exc_info=error)
    return _Problem(sentence_of(error))


def _free(device: torch.device) -> None:
    """Give back what the allocator keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _entries(partial: Finished, source: VideoSource) -> Entries:
    return partial.finished[source.video_id]


def _draw(on_video: OnVideo, source: VideoSource, entries: Entries) -> Failure | None:
    """Returns: what went wrong, or None."""
    try:
        on_video(source, entries)
    except (ValueError, OSError, MemoryError) as error:
        logger.debug("where it happened:", exc_info=True)
        sentence = f"{source}: results are kept, but drawing failed: {sentence_of(error)}"
        logger.error("%s", sentence)
        return Failure(source.video_id, sentence)
    return None
