"""Scoring a results file of validation size: our library, our command, the official evaluator.

The official one is there if SEQFORMER_COCOAPI names it, see `baselines/official_scorer.py`. All
read the same two files and must give the same twelve numbers. Each runs in this process: imports
are not counted on any side; `python -m bench.scorer` counts them.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.baselines.official_scorer import VARIABLE, official_modules, official_scores
from bench.suite.schema import Call, Case, Side, Size
from bench.suite.scorer_files import (
    HEIGHT,
    NUM_VIDEOS,
    RESULTS_PER_VIDEO,
    WIDTH,
    TruthForm,
    draw_files,
)
from bench.suite.scratch import drawn
from seqformer.cli import eval as command
from seqformer.evaluation import evaluate, format_table


def cases(size: Size) -> Iterator[Case]:
    forms: tuple[TruthForm, ...] = ("runs", "text")
    if size == "smoke":
        yield from (scorer_case(form, 4) for form in forms)
    elif size == "cpu":
        yield from (scorer_case(form, NUM_VIDEOS) for form in forms)


def scorer_case(truth_form: TruthForm, num_videos: int) -> Case:
    """Ground truth as the published files have it (uncompressed), or compressed."""
    op = "scorer" if truth_form == "runs" else "scorer, compressed truth"
    sides = {"ours": _ours, "eval.py": _command, "published": _official}
    return Case(
        name=f"{op}, {num_videos} videos 720x1280",
        op=op,
        group="scoring",
        shapes={"N": num_videos * RESULTS_PER_VIDEO, "H": HEIGHT, "W": WIDTH},
        units=("videos", num_videos),
        sides=tuple(
            Side(
                name=name,
                build=partial(build, truth_form, num_videos),
                available=partial(_has_official, name),
            )
            for name, build in sides.items()
        ),
        dtype="float64",
        rounds=3,
        tolerance=1e-9,
    )


def _has_official(name: str, device: torch.device) -> bool:
    return name != "published" or VARIABLE in os.environ


def _files(truth_form: TruthForm, num_videos: int) -> tuple[str, str]:
    """Annotations and results."""
    folder = drawn(draw_files, truth_form, num_videos)
    return str(folder / "annotations.json"), str(folder / "results.json")


def _ours(truth_form: TruthForm, num_videos: int, device: torch.device) -> Call:
    annotations, results = _files(truth_form, num_videos)

    def score() -> Tensor:
        metrics = evaluate(annotations, results)
        format_table(metrics)
        return _numbers(metrics.stats)

    return score


def _command(truth_form: TruthForm, num_videos: int, device: torch.device) -> Call:
    annotations, results = _files(truth_form, num_videos)

    def score() -> Tensor:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            file = Path(folder) / "metrics.json"
            with redirect_stderr(io.StringIO()) as errors:
                arguments = ["--results", results, "--annotations", annotations]
                if command.main([*arguments, "--metrics", str(file)]):
                    raise RuntimeError(errors.getvalue())
            return _numbers(json.loads(file.read_text()))

    return score


def _numbers(stats: dict[str, Any]) -> Tensor:
    """The twelve, in their order."""
    values = [value for name, value in stats.items() if name not in ("per_class", "tracking")]
    return torch.tensor(values, dtype=torch.float64)


def _official(truth_form: TruthForm, num_videos: int, device: torch.device) -> Call:
    annotations, results = _files(truth_form, num_videos)
    modules = official_modules(Path(os.environ[VARIABLE]))
    return lambda: torch.from_numpy(official_scores(modules, annotations, results))
