"""The figure of `stats`: classes, lengths, sizes and places of the instances of a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from seqformer.files import write_bytes, writing_to
from seqformer.tools.stats import Measures

COLOUR = "#3b86c6"
MAX_CLASSES = 60


def plot(measures: Measures, numbers: dict[str, Any], path: Path) -> None:
    """Write the figure.

    Raises: ValueError for a file type that cannot be written, or a folder; WriteError.
    """
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise ValueError(f"--plot {path} must end in .png, .pdf or .svg")
    if path.is_dir():
        raise ValueError(f"--plot {path} is a folder; give the name of a file")
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(13, 7.5), layout="constrained")
        axes = figure.subplots(2, 3)
        _plot_classes(axes[0, 0], numbers["classes"])
        per_video = np.bincount(measures.video, minlength=len(measures.lengths))
        _plot_counts(axes[0, 1], measures.lengths, "frames of a video", "videos")
        _plot_counts(axes[0, 2], per_video, "instances of a video", "videos")
        _plot_sizes(axes[1, 0], measures.shares)
        visible = measures.num_visible / np.maximum(measures.lengths[measures.video], 1)
        axes[1, 1].hist(visible, bins=20, range=(0, 1), color=COLOUR)
        axes[1, 1].xaxis.set_major_formatter(PercentFormatter(1))
        axes[1, 1].set(
            xlabel="part of the video in which an instance is visible", ylabel="instances"
        )
        _plot_places(axes[1, 2], measures.centres)
        figure.suptitle(
            f"{numbers['videos']} videos, {numbers['frames']} frames, {numbers['instances']} "
            f"instances of {len(numbers['classes'])} classes"
        )
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:].lower(), dpi=110)
    write_bytes(path, picture.getvalue())


def _plot_classes(axes: Any, classes: list[dict[str, Any]]) -> None:
    rows = sorted(classes, key=lambda row: -row["instances"])[:MAX_CLASSES]
    axes.bar(range(len(rows)), [row["instances"] for row in rows], color=COLOUR)
    size = 9 if len(rows) <= 15 else 6
    axes.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=90, fontsize=size)
    more = f" (the largest {MAX_CLASSES})" if len(classes) > MAX_CLASSES else ""
    axes.set(xlabel=f"class{more}", ylabel="instances")


def _plot_counts(axes: Any, values: np.ndarray, label: str, of: str) -> None:
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    step = max(1, -(-(high - low + 1) // 40))
    axes.hist(values, bins=np.arange(low, high + step + 1, step) - 0.5, color=COLOUR)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(low - step - 0.5, high + step + 0.5)
    axes.set(xlabel=label, ylabel=of)


def _plot_sizes(axes: Any, shares: np.ndarray) -> None:
    shares = shares[shares > 0]
    low = 10 ** np.floor(np.log10(shares.min())) if shares.size else 1e-3
    axes.hist(shares, bins=np.geomspace(low, 1, 30), color=COLOUR)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set(xlabel="mean share of the frame while visible", ylabel="instances")


def _plot_places(axes: Any, centres: np.ndarray) -> None:
    counts, _, _ = np.histogram2d(centres[:, 1], centres[:, 0], bins=24, range=[[0, 1], [0, 1]])
    axes.imshow(counts, extent=(0, 1, 1, 0), cmap="Blues", aspect="auto")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="where boxes have their centre", ylabel="from the top")
