"""The tracking metrics as a table to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqformer.evaluation.tracking import TrackingMetrics
from seqformer.evaluation.tracking_sums import NUMBERS, SUMMED


def format_tracking(metrics: TrackingMetrics) -> str:
    """Percentages and counts: both averages, then a line per class; "-" without ground truth."""
    rows = metrics.per_class.values()
    width = max([len("all masks"), *(len(row["name"]) for row in rows)])
    header = f"{'':{width}}  {'masks':>9}" + "".join(f"{name:>7}" for name in NUMBERS)
    total = sum(row["num_masks"] for row in rows)
    lines = [header]
    lines.append(_line("classes", width, total, metrics.stats))
    lines.append(_line("all masks", width, total, metrics.over_masks))
    lines.append("-" * len(header))
    lines += [_line(row["name"], width, row["num_masks"], row) for row in rows]
    return "\n".join(lines)


def _line(label: str, width: int, num_masks: int, numbers: Mapping[str, Any]) -> str:
    cells = (
        f"{'-':>7}"
        if not num_masks
        else f"{numbers[name]:>7}"
        if name in SUMMED
        else f"{100 * numbers[name]:7.2f}"
        for name in NUMBERS
    )
    return f"{label:{width}}  {num_masks:>9}" + "".join(cells)
