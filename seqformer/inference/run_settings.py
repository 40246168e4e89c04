"""What decides the results of a run: a run may only be continued where all of it is equal."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from seqformer.config import EvalConfig
from seqformer.data.video_sources import VideoSource
from seqformer.devices import keep_freed_memory
from seqformer.distributed.context import DistributedContext
from seqformer.inference.calibration import frames_of
from seqformer.inference.int8 import check_int8
from seqformer.inference.predictor import Predictor
from seqformer.model import Int8Ranges

logger = logging.getLogger(__name__)


@contextmanager
def own_threads() -> Iterator[None]:
    """A run may set PyTorch's number of threads; after the block it is as before."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def resolve_runtime(
    predictor: Predictor,
    ranks: DistributedContext,
    stored: dict[str, Any],
    threads: int | None = None,
) -> None:
    """Fill in what depends on the machine: once per run, the same on every rank, and in a run that
    is continued what it was started with.

    Args:
        predictor: its `config.chunk_frames` is settled.
        stored: settings of the run that is continued; {} for a new one.
        threads: of PyTorch on a CPU; by default at most 4, however many processes there are, for
            the last bits of results depend on it.
    """
    if predictor.device.type == "cpu":
        threads = threads or stored.get("threads") or min(4, os.cpu_count() or 1)
        torch.set_num_threads(int(ranks.from_main(threads)))
        keep_freed_memory()
    chunk_frames = ranks.from_main(
        predictor.config.chunk_frames
        or stored.get("chunk_frames")
        or predictor.default_chunk_frames()
    )
    predictor.config = replace(predictor.config, chunk_frames=int(chunk_frames))


def _digest(weights: Path) -> str:
    """Of a file, or of all files in a checkpoint folder."""
    digest = hashlib.sha256()
    paths = [weights] if weights.is_file() else sorted(filter(Path.is_file, weights.iterdir()))
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def run_settings(
    weights: Path,
    config: EvalConfig,
    sources: Sequence[VideoSource],
    device: torch.device | None = None,
) -> dict[str, Any]:
    """What decides the results: a run may only be continued where all of it is equal."""
    weights_digest = _digest(weights)
    videos = [
        (
            *(s.video_id, s.first_file_name, [str(p.resolve()) for p in s.paths]),
            *(name for name in ("upright", "allow_broken", "is_still") if getattr(s, name)),
        )
        for s in sources
    ]
    return {
        "format": 2,
        "weights": str(weights),
        "weights_sha256": weights_digest,
        "videos_sha256": hashlib.sha256(repr(videos).encode()).hexdigest(),
        "device": "cpu" if device is None else device.type,
        "threads": torch.get_num_threads() if device is None or device.type == "cpu" else None,
        **asdict(config),
    }


def settle_ranges(
    predictor: Predictor,
    sources: Sequence[VideoSource],
    file: Path | None,
    stored: dict[str, Any],
    settings: dict[str, Any],
    ranks: DistributedContext,
) -> None:
    """Give a predictor its ranges if it computes in int8: those of the file, else of the run that
    is continued, else measured now. The settings get them too.

    Args:
        file: `--int8-ranges`; written where it does not exist.
        stored: settings of the run that is continued; {} for a new one.
        settings: of this run.

    Raises: ValueError, FileNotFoundError, WriteError.
    """
    if predictor.config.precision != "int8":
        if file is not None:
            raise ValueError("--int8-ranges is for --precision int8")
        return
    if predictor.model is None:
        assert predictor.network  # says why an exported file cannot
        return
    check_int8(predictor.model, predictor.device, predictor.is_compiled)
    ranges = None
    if ranks.is_main:
        before = dict(stored)
        kept = before.pop("int8_ranges", None)
        if file is not None and file.exists():
            ranges = Int8Ranges.load(file)
        elif kept is not None and before == settings:
            ranges = Int8Ranges.from_json(kept)
        else:
            logger.info("measuring the ranges for int8")
            predictor.calibrate(frames_of(sources))
            ranges = predictor.ranges
        assert ranges is not None
        if file is not None and not file.exists():
            ranges.save(file)
    ranges = ranks.from_main(ranges)
    predictor.ranges = ranges
    assert ranges is not None and predictor.network  # made now: it refuses other weights
    settings["int8_ranges"] = ranges.as_json()
