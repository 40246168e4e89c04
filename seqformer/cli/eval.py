"""`seqformer eval`, which `eval.py` is too: run weights on videos, score results, draw them.

Refuses what makes no sense before any file is opened. Exit codes: 0 all done; 1 some videos failed
(the results of the others are written); 2 the command cannot be carried out. Scoring existing
results never imports torch.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from seqformer.cli.command import log_to_stderr
from seqformer.cli.threads import wait_briefly
from seqformer.command import Command

if TYPE_CHECKING:
    from seqformer.config import EvalOptions

logger = logging.getLogger(__name__)

_ONLY_WITH_WEIGHTS = (
    *("output", "backbone", "device", "fresh", "decode_workers", "encode_workers"),
    *("backend", "compile", "deterministic", "memory_mib", "int8_ranges"),
)
_ONLY_LIVE = ("live_policy", "live_frames", "live_reconnect", "live_keep")


_AP_ONLY = "--ap-only"


def main(arguments: Sequence[str], program: str = "eval.py") -> int:
    """Parse, run, and turn every expected error into one sentence. Returns: the exit code."""
    if (files := scored_files(arguments)) is not None:
        log_to_stderr()
        return Command(program).run(lambda: _score_files(files))
    options = parse(arguments, program)
    log_to_stderr(options.verbose)
    hint = "" if options.weights is None else "the same command continues after the last video"
    return Command(program, hint=hint).run(lambda: _act(options, program), _expected)


def scored_files(arguments: Sequence[str]) -> dict[str, str] | None:
    """The arguments of `score_files` where nothing else is asked for; None for the parser.

    Scoring takes a fifth of a second, and importing the parser would take half of that.
    """
    words = [word for word in arguments if word != _AP_ONLY]
    flags, values = words[::2], words[1::2]
    given = dict(zip(flags, values, strict=False))
    needed, known = {"--results", "--annotations"}, {"--metrics", "--threads"}
    is_plain = (
        len(given) == len(flags) == len(values)
        and len(arguments) - len(words) < 2
        and needed <= given.keys() <= needed | known
        and not any(value.startswith("-") for value in values)
        and (threads := given.get("--threads", "1")).isascii()
        and threads.isdecimal()
        and int(threads) > 0
    )
    if not is_plain:
        return None
    is_ap_only = {_AP_ONLY: "yes"} if _AP_ONLY in arguments else {}
    return {flag[2:]: value for flag, value in (given | is_ap_only).items()}


def _score_files(files: dict[str, str]) -> int:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy would start threads for nothing
    from seqformer.inference.scoring import score_files

    metrics = files.get("metrics")
    score_files(
        Path(files["annotations"]),
        Path(files["results"]),
        Path(metrics) if metrics is not None else None,
        int(files.get("threads", 1)),
        "ap-only" in files,
    )
    return 0


def _act(options: EvalOptions, program: str) -> int:
    try:
        check_options(options)
        from seqformer.distributed.environment import launch

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
    if options.long_videos is not None and options.long_from is not None:
        raise ValueError("give --long-videos or --long-from, not both")
    if options.ap_only and (options.long_videos is not None or options.long_from is not None):
        raise ValueError("--ap-only leaves out what --long-videos and --long-from ask for")
    if options.long_from is not None and options.long_from < 1:
        raise ValueError(f"--long-from must be at least 1, got {options.long_from}")
    needs_truth: dict[str, Path | int | None] = {
        "--metrics": options.metrics,
        "--report": options.report,
        "--long-videos": options.long_videos,
        "--long-from": options.long_from,
    }
    for flag, given in needs_truth.items():
        is_latency = options.address is not None and flag == "--metrics"
        if given is not None and options.annotations is None and not is_latency:
            raise ValueError(f"{flag} needs --annotations with ground truth")
    if options.stills:
        for flag, is_given in (
            ("--report", options.report is not None),
            ("--visualize-truth", options.visualize_truth),
            ("--visualize-fps", options.visualize_fps is not None),
        ):
            if is_given:
                raise ValueError(f"{flag} is for videos and does not work with --stills")
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
        number: int | None = getattr(options, name)
        if number is not None and number < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {number}")


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
