"""`seqformer eval` on a camera or an address: follow it, and write what there is at the end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from seqformer.config import EvalOptions
from seqformer.data.live_source import LiveSource
from seqformer.devices import choose_device, keep_freed_memory
from seqformer.export import is_exported
from seqformer.files import WriteError, locked, write_json
from seqformer.inference.evaluate import check_writable_outputs
from seqformer.inference.live import follow, warm_up
from seqformer.inference.live_film import FilmProcess
from seqformer.inference.predictor import Predictor
from seqformer.inference.results_file import lock_path, write_results
from seqformer.inference.run_settings import own_threads
from seqformer.inference.stream import StreamLimits
from seqformer.model import Int8Ranges
from seqformer.safe_files import check_regular
from seqformer.visualization.video_writer import DEFAULT_FPS, FPS_RANGE

logger = logging.getLogger(__name__)


def run_live(options: EvalOptions) -> int:
    """Follow a camera or an address with weights.

    Returns: the exit code: 0; 1 where the source broke off, with all that came before written.
    Raises: ValueError when it cannot be opened or never sends a frame; WriteError.
    """
    weights, output, address = options.weights, options.output, options.address
    assert weights is not None and output is not None and address is not None
    if not weights.is_dir():
        check_regular(weights)
    check_writable_outputs(options)
    device = choose_device(options.device)
    with locked(lock_path(output), f"{output}"), own_threads():
        if device.type == "cpu":
            torch.set_num_threads(options.threads or default_threads())
        if is_exported(weights):
            predictor = Predictor.from_exported(weights, device=device)
        else:
            predictor = Predictor.from_checkpoint(weights, options.backbone, device=device)
        config = replace(predictor.config, **options.config_changes())
        predictor.config = replace(config, chunk_frames=config.chunk_frames or 1)
        if options.int8_ranges is not None:
            if predictor.config.precision != "int8":
                raise ValueError("--int8-ranges is for --precision int8")
            predictor.ranges = Int8Ranges.load(options.int8_ranges)
        predictor.limits = StreamLimits(memory_mib=options.memory_mib)
        assert predictor.network is not None  # made now, not while frames wait
        keep_freed_memory()
        with (
            LiveSource(address, options.live_policy, options.live_reconnect or 0) as source,
            _film(options, source) as film,
        ):
            if source.size is not None:
                warm_up(predictor, source.size)
            logger.info("%s is open; Ctrl-C ends it and writes the results", source.address)
            source.begin()
            prediction, report = follow(
                predictor, source, options.live_keep, options.live_frames, film
            )
            source.close()
        entries = [] if prediction is None else prediction.entries(1, "live")
        write_results(output, entries)
        if options.metrics is not None:
            write_json(options.metrics, report.as_json())
    logger.log(logging.WARNING if report.is_broken else logging.INFO, "%s", report.sentence())
    logger.info("%d results in %s", len(entries), output)
    if prediction is None and report.ended != "interrupted":
        raise ValueError(report.sentence())
    if film is not None and film.problem:
        raise WriteError(f"{film.problem}; the results are in {output}")
    return 1 if report.is_broken else 0


def default_threads() -> int:
    """Of PyTorch: one core is left for decoding, drawing and encoding."""
    return max(1, min(4, (os.cpu_count() or 1) - 1))


@contextmanager
def _film(options: EvalOptions, source: LiveSource) -> Iterator[FilmProcess | None]:
    """The film that is asked for; written when the block ends, however it does."""
    if options.visualize is None:
        yield None
        return
    path = options.visualize / f"live.{options.visualize_format}"
    low, high = FPS_RANGE
    fps = min(max(options.visualize_fps or source.fps or DEFAULT_FPS, low), high)
    film = FilmProcess(path, fps, options.visualize_min_score)
    try:
        yield film
    finally:
        film.close()
