"""`seqformer eval` on a camera or an address: follow it, and write what there is at the end."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

import torch

from seqformer.config import EvalOptions
from seqformer.data.live_source import LiveSource
from seqformer.devices import choose_device
from seqformer.export import is_exported
from seqformer.files import locked, write_json
from seqformer.inference.evaluate import check_writable_outputs
from seqformer.inference.live import follow
from seqformer.inference.predictor import Predictor
from seqformer.inference.results_file import lock_path, write_results
from seqformer.inference.run_settings import own_threads
from seqformer.inference.stream import StreamLimits
from seqformer.safe_files import check_regular

logger = logging.getLogger(__name__)


def run_live(options: EvalOptions) -> int:
    """Follow a camera or an address with weights. Returns: the exit code.

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
            torch.set_num_threads(options.threads or min(4, os.cpu_count() or 1))
        if is_exported(weights):
            predictor = Predictor.from_exported(weights, device=device)
        else:
            predictor = Predictor.from_checkpoint(weights, options.backbone, device=device)
        config = replace(predictor.config, **options.config_changes())
        predictor.config = replace(config, chunk_frames=config.chunk_frames or 1)
        predictor.limits = StreamLimits(memory_mib=options.memory_mib)
        film = None
        if options.visualize is not None:
            film = options.visualize / f"live.{options.visualize_format}"
        assert predictor.network is not None  # made now, not while frames wait
        with LiveSource(address, options.live_policy) as source:
            logger.info("%s is open; Ctrl-C ends it and writes the results", address)
            prediction, report = follow(
                predictor,
                source,
                options.live_keep,
                options.live_frames,
                film,
                options.visualize_fps,
                options.visualize_min_score,
            )
        entries = [] if prediction is None else prediction.entries(1, "live")
        write_results(output, entries)
        if options.metrics is not None:
            write_json(options.metrics, report.as_json())
    logger.info("%s", report.sentence())
    logger.info("%d results in %s", len(entries), output)
    if prediction is None and report.ended != "interrupted":
        raise ValueError(report.sentence())
    return 0
