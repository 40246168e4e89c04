"""A study: a record in bench/results, and the page of docs/ with one figure that is made of it.

`bench.curves`, `bench.stages` and `bench.accuracy_over_length` are studies.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.demo import REPOSITORY
from bench.report.drawing import colour, save, style
from bench.suite.record import machine
from seqformer.files import write_json, write_text

Row = dict[str, Any]
FOLDERS = (REPOSITORY / "bench" / "results", REPOSITORY / "docs")
"""Of the records, and of the pages."""


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Where a study writes."""

    out: Path
    """The record."""
    page: Path
    """The page; its figure lies beside it."""
    render: bool = False
    """Only write the page of the record that is there."""


def write_record(path: Path, rows: Sequence[Row], **settings: Any) -> None:
    """Write what was measured, with the settings and the machine."""
    facts = machine(torch.device("cpu"))
    where = f"one thread of an {facts['device']} CPU, torch {facts['torch']}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**settings, "machine": where, "rows": rows})


def render(
    options: StudyOptions,
    text: Callable[[dict[str, Any], str], str],
    draw: Callable[[dict[str, Any], Axes], None],
) -> None:
    """Write the page of the record, and its figure.

    Args:
        text: the page as Markdown, of a record and the file name of the figure.
        draw: the curves of a record, and what the axes are called.
    """
    record = json.loads(options.out.read_text(encoding="utf-8"))
    path = options.page.with_suffix(".svg")
    with style():
        figure = Figure(figsize=(5.2, 3.2))
        axes = figure.add_subplot()
        draw(record, axes)
        axes.set_ylim(bottom=0)
        axes.legend()
        figure.tight_layout()
        save(figure, path)
    write_text(options.page, text(record, path.name))
    print(options.page)


def by_seed(rows: Sequence[Row], arm: str) -> list[Row]:
    """The rows of one arm of a study."""
    return sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["seed"])


def draw_seeds(
    axes: Axes, number: int, x: Sequence[float], curves: Sequence[Sequence[float]], **mean: Any
) -> None:
    """The curves of an arm's seeds, thin, and their mean, thick, which `mean` says more about."""
    for points in curves:
        axes.plot(x, points, color=colour(number), linewidth=0.8, alpha=0.5)
    means = [statistics.fmean(point) for point in zip(*curves, strict=True)]
    axes.plot(x, means, color=colour(number), **mean)
