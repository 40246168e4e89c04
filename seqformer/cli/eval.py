"""`seqformer eval`, which `eval.py` is too: run weights on videos, score results, draw them.

Refuses what makes no sense before any file is opened. Exit codes: 0 all done; 1 some videos failed
(the results of the others are written); 2 the command cannot be carried out. Scoring existing
results never imports torch.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from seqformer.cli.command import log_to_stderr
from seqformer.cli.threads import wait_briefly
from seqformer.command import Command
from seqformer.config import EvalOptions
from seqformer.distributed.environment import launch

logger = logging.getLogger(__name__)

_ONLY_WITH_WEIGHTS = (
    *("output", "backbone", "device", "fresh", "threads", "decode_workers", "encode_workers"),
    *("deterministic", "memory_mib"),
)
_ONLY_LIVE = ("live_policy", "live_frames", "live_keep")


def main(arguments: Sequence[str], program: str = "eval.py") -> int:
    """Parse, run, and turn every expected error into one sentence. Returns: the exit code."""
    options = parse(arguments, program)
    log_to_stderr(options.verbose)
    hint = "" if options.weights is None else "the same command continues after the last video"
    return Command(program, hint=hint).run(lambda: _act(options, program), _expected)


def _act(options: EvalOptions, program: str) -> int:
    try:
        check_options(options)
        if launch().world_size == 1:  # several processes do not loop at all: see `run_weights`
            wait_briefly()
        if options.address is not None:
            from seqformer.inference.live_command import run_live

            return run_live(options)
        from seqformer.inference.evaluate import draw_and_score, run_weights

        evaluate = draw_and_score if options.weights is None else run_weights
        return evaluate(options, program)
    except (ValueError, OSError):
        logger.debug("where it happened:", exc_info=True)
        raise


def _expected() -> tuple[type[BaseException], ...]:
    """Errors whose message is written for the user, beside those of Python; torch stays unloaded
    where it is."""
    if "torch" not in sys.modules:
        return ()
    from seqformer.distributed.errors import LostProcessError

    return (LostProcessError,)


def parse(arguments: Sequence[str], program: str = "eval.py") -> EvalOptions:
    """The options of a command line; ends the program with a message on any mistake."""
    flags, values = arguments[::2], arguments[1::2]
    paths = {"--results": "results", "--annotations": "annotations", "--metrics": "metrics"}
    is_scoring = "--results" in flags and len(set(flags)) == len(flags) == len(values)
    if is_scoring and set(flags) <= set(paths) and not any(v.startswith("-") for v in values):
        # Scoring takes a second, and importing the parser would be a good part of it.
        given: dict[str, Any] = {
            paths[flag]: Path(value) for flag, value in zip(flags, values, strict=True)
        }
        return EvalOptions(**given)
    from seqformer.cli.eval_flags import parse_flags

    return parse_flags(arguments, program)


def check_options(options: EvalOptions) -> None:
    """Refuse combinations that make no sense, before any file is opened.

    Raises: ValueError saying what to change.
    """
    if (options.weights is None) == (options.results is None):
        raise ValueError("give either --weights, to run a model, or --results, to score a file")
    if options.weights is not None:
        for flag, value in (("--images", options.images), ("--output", options.output)):
            if value is None:
                raise ValueError(f"--weights also needs {flag}")
    else:
        idle = [*options.given, *(n for n in _ONLY_WITH_WEIGHTS if _is_given(options, n))]
        for name in idle:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} only works with --weights, not with --results")
        if options.visualize is options.report is None and options.images is not None:
            raise ValueError(
                "with --results, --images is only used together with --visualize or --report"
            )
        if options.visualize is not None and options.images is None:
            raise ValueError("--visualize needs --images, the frames to draw on")
        if options.visualize is None and options.annotations is None:
            raise ValueError("--results needs --annotations to score, or --visualize and --images")
    if options.address is not None:
        _check_live(options)
    elif idle := [n for n in _ONLY_LIVE if _is_given(options, n)]:
        flag = idle[0].replace("_", "-")
        raise ValueError(f"--{flag} only works where --images is a camera or an address")
    for flag, value in (("--metrics", options.metrics), ("--report", options.report)):
        is_latency = options.address is not None and flag == "--metrics"
        if value is not None and options.annotations is None and not is_latency:
            raise ValueError(f"{flag} needs --annotations with ground truth")
    if options.visualize is None:
        for name in ("visualize_format", "visualize_min_score", "visualize_fps", "visualize_truth"):
            if _is_given(options, name):
                raise ValueError(f"--{name.replace('_', '-')} needs --visualize")
    if options.visualize_truth and options.annotations is None:
        raise ValueError("--visualize-truth needs --annotations with ground truth")
    if options.visualize_fps is not None:
        from seqformer.visualization.video_writer import check_fps  # loads codecs

        check_fps(options.visualize_fps, "--visualize-fps")
    for name in ("threads", "decode_workers", "encode_workers", "memory_mib", *_ONLY_LIVE[1:]):
        least = int(name in ("threads", *_ONLY_LIVE))
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")


def _check_live(options: EvalOptions) -> None:
    """Refuse what a camera or an address does not go with. Raises: ValueError."""
    if options.weights is None:
        raise ValueError(f"--images {options.address} needs --weights, a model to follow it with")
    for name in ("annotations", "report", "decode_workers", "encode_workers", "visualize_truth"):
        if _is_given(options, name):
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} does not work with a camera or an address")
    if options.visualize is not None and options.visualize_format == "png":
        raise ValueError("--visualize-format png does not work with a camera or an address")


def _is_given(options: EvalOptions, name: str) -> bool:
    """Whether an option has another value than by default."""
    return getattr(options, name) != next(f for f in fields(options) if f.name == name).default
