"""An analysis and a comparison as text to read; percentages, "-" where nothing is to be found."""

from __future__ import annotations

from collections.abc import Sequence

from seqformer.evaluation.analysis import STATS, Analysis, Slice
from seqformer.evaluation.bootstrap import Interval
from seqformer.evaluation.comparison import Comparison, Difference
from seqformer.evaluation.tracking_sums import SUMMED


def format_analysis(analysis: Analysis) -> str:
    """Intervals, kinds of error, parts of the data, classes."""
    errors = analysis.errors
    lines = [f"{'':24}{'value':>8}    95 % interval"]
    lines += [f"{name:24}{_interval(analysis.stats[name])}" for name in STATS]
    lines += [
        f"{name:24}{_interval(interval)}"
        for name, interval in analysis.tracking_stats.items()
        if name not in SUMMED
    ]
    lines += [
        f"{name:24}{interval.value:>8.0f}    {interval.low:.0f} to {interval.high:.0f}"
        for name, interval in analysis.tracking_stats.items()
        if name in SUMMED
    ]
    lines += ["", f"AP at IoU {errors.iou_threshold:.2f}: {_percent(errors.ap).strip()}"]
    lines.append(f"{'kind of error':24}{'count':>8}{'AP lost':>10}")
    for kind, count in errors.counts.items():
        lines.append(f"{kind:24}{count:>8}{100 * errors.costs[kind]:>10.2f}")
    lines.append(f"{'all false results':24}{'':8}{100 * errors.cost_of_all_false:>10.2f}")
    lines.append(f"{'all unfound instances':24}{'':8}{100 * errors.cost_of_all_missing:>10.2f}")
    lines += _slices("length of the video", analysis.by_length)
    lines += _slices("share of the frame", analysis.by_size)
    lines += _slices("official size", analysis.by_area[1:])
    width = max([24, *(len(name) for name in analysis.truth.categories.values())])
    lines += ["", f"{'class':{width}}{'AP':>8}    95 % interval"]
    for category_id, interval in analysis.per_class.items():
        lines.append(f"{analysis.truth.categories[category_id]:{width}}{_interval(interval)}")
    return "\n".join(lines)


def format_comparison(
    comparison: Comparison, categories: dict[int, str], num_videos: int = 10
) -> str:
    """Numbers, classes, and the videos that changed most.

    Args:
        categories: names by id.
        num_videos: lines for videos that got better, and for videos that got worse.
    """
    head = f"{'first':>8}{'second':>8}{'change':>9}    95 % interval    better in"
    lines = [f"{'':24}{head}"]
    lines += [f"{name:24}{_difference(row)}" for name, row in comparison.stats.items()]
    for name, row in comparison.tracking.items():
        lines.append(f"{name:24}{_difference(row, 1 if name in SUMMED else 100)}")
    width = max([24, *(len(name) for name in categories.values())])
    for name, rows in (("AP", comparison.per_class), ("HOTA", comparison.tracking_per_class)):
        lines += ["", f"{f'class ({name})':{width}}{head}"]
        for category_id, row in rows.items():
            lines.append(f"{categories[category_id]:{width}}{_difference(row)}")
    changes = {
        video_id: second - first
        for video_id, (first, second) in comparison.per_video.items()
        if first != second
    }
    ranked = sorted(changes, key=lambda video_id: changes[video_id])
    better, worse = ranked[::-1], ranked
    for heading, some, sign in (("better", better, 1), ("worse", worse, -1)):
        of_sign = [video_id for video_id in some if sign * changes[video_id] > 0]
        lines += ["", f"{len(of_sign)} videos are {heading}, the most:" if of_sign else ""]
        for video_id in of_sign[:num_videos]:
            first, second = comparison.per_video[video_id]
            cells = f"{_percent(first)}{_percent(second)}{100 * changes[video_id]:>+9.2f}"
            lines.append(f"{f'video {video_id}':24}{cells}")
    return "\n".join(lines).rstrip()


def _slices(heading: str, rows: Sequence[Slice]) -> list[str]:
    lines = ["", f"{heading:24}{'videos':>8}{'objects':>9}" + "".join(f"{n:>8}" for n in STATS)]
    for row in rows:
        numbers = "".join(_percent(row.stats[name]) for name in STATS)
        lines.append(f"{row.name:24}{row.num_videos:>8}{row.num_instances:>9}{numbers}")
    return lines


def _percent(value: float) -> str:
    return f"{100 * value:>8.2f}" if value >= 0 else f"{'-':>8}"


def _interval(interval: Interval) -> str:
    span = f"{100 * interval.low:.2f} to {100 * interval.high:.2f}" if interval.low >= 0 else "-"
    return f"{_percent(interval.value)}    {span}"


def _difference(row: Difference, scale: int = 100) -> str:
    """Args: scale: 100 for shares, 1 for counts."""
    change = row.difference
    if scale == 1:
        cells = f"{row.first:>8.0f}{row.second:>8.0f}{change.value:>+9.0f}"
        span = f"{change.low:+.0f} to {change.high:+.0f}"
    else:
        cells = f"{_percent(row.first)}{_percent(row.second)}{scale * change.value:>+9.2f}"
        span = f"{scale * change.low:+.2f} to {scale * change.high:+.2f}"
    return f"{cells}    {span:16} {100 * row.share_better:>5.1f} %"
