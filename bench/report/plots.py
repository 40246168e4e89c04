"""Figures: cases of a group, throughput over commits, growth, and the course of a long video."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bench.report import drawing
from bench.report import formatting as f
from bench.report.growth import NAMES, Curve, fit
from bench.report.history import Newest, Record

MOST_POINTS = 400
"""Of a long video's course; more are thinned by keeping the largest of each stretch."""
MOST_ROWS = 40
HISTORY_OPS = {"training step": "clips", "inference": "frames"}


def parted(group: str, cases: Sequence[Newest]) -> dict[str, list[Newest]]:
    """A group's figures: one, or one per kind of op where it would not fit a page."""
    if len(cases) <= MOST_ROWS:
        return {group: list(cases)}
    parts: dict[str, list[Newest]] = {}
    for case in cases:
        parts.setdefault(f"{group}, {case.row['op'].split()[0]}", []).append(case)
    return parts


def cases_figure(title: str, cases: Sequence[Newest], path: Path) -> None:
    """A row per case: time, time of the others over ours, peak memory; logarithmic."""
    sides = ["ours", *dict.fromkeys(side for case in cases for side in case.ratios)]
    with drawing.style():
        figure = Figure(figsize=(11, 1.5 + 0.28 * len(cases)), layout="constrained")
        times, ratios, memory = figure.subplots(1, 3, sharey=True, width_ratios=(5, 4, 4))
        for number, side in enumerate(sides):
            _side_points((times, ratios, memory), number, side, cases)
        ratios.axvline(1, color=drawing.OURS, linewidth=1.2)
        labels = [_label(case.row) for case in cases]
        times.set_yticks(range(len(cases)), labels)
        times.set_ylim(len(cases) - 0.5, -0.5)
        _logarithmic(times, "time of one call", _seconds_tick)
        _logarithmic(ratios, "time of the other / ours", lambda value: f"{value:g}x")
        _logarithmic(memory, "peak memory, MiB", lambda value: f"{value:,g}")
        handles = [times.plot([], [], label=side, **_look(n))[0] for n, side in enumerate(sides)]
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7))
        drawing.save(figure, path)


def _look(number: int) -> dict[str, Any]:
    """Markers of the side with this number; ours alone are filled."""
    return {
        "color": drawing.colour(number),
        "marker": drawing.marker(number),
        "markersize": 5,
        "linestyle": "none",
        "fillstyle": "full" if number == 0 else "none",
    }


def _side_points(axes: Any, number: int, side: str, cases: Sequence[Newest]) -> None:
    """One line object a panel: a figure of a hundred cases stays small."""
    times, ratios, memory = axes
    look = _look(number)
    having = [(y, case.row["sides"].get(side)) for y, case in enumerate(cases)]
    rows = [(y, row) for y, row in having if row is not None]
    took = [(y, row["seconds"]) for y, row in rows]
    spread = [p for y, t in took for p in ((t["p20"], y), (t["p80"], y), (float("nan"), y))]
    _draw(times, spread, color=look["color"], linewidth=2, alpha=0.5)
    _draw(times, [(t["median"], y) for y, t in took], **look)
    peaks = [(row["peak_bytes"] / f.MIB, y) for y, row in rows if row["peak_bytes"]]
    _draw(memory, peaks, **look)
    found = [(case.time_ratio(side), y) for y, case in enumerate(cases)]
    _draw(ratios, [(x, y) for x, y in found if x is not None], **look)


def _draw(axes: Any, points: Sequence[tuple[float, float]], **look: Any) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), **look)


def _label(row: Mapping[str, Any]) -> str:
    words = [row["name"]]
    words += [w for w in (row["direction"], row["dtype"]) if w != "-" and w not in row["name"]]
    return ", ".join(words) if len(", ".join(words)) <= 60 else row["name"]


def _logarithmic(axes: Any, title: str, tick: Callable[[float], str]) -> None:
    """A logarithmic axis over the data and at least a factor of eight, with ticks at 1, 2 and 5."""
    drawn = [x for line in axes.lines for x in line.get_xdata() if x > 0]
    low, high = (min(drawn), max(drawn)) if drawn else (1.0, 10.0)
    widen = max(1.3, (8 * low / high) ** 0.5)
    axes.set(title=title, xscale="log", xlim=(low / widen, high * widen))
    is_wide = high / low > 60
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if is_wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.tick_params(length=0)


def _seconds_tick(value: float) -> str:
    if value == 0:
        return "0"
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 0.999:
            return f"{round(value * factor, 3):,g} {unit}"
    return f"{round(value * 1e6, 3):g} µs"


def histories(records: Sequence[Record]) -> dict[str, dict[str, list[tuple[Record, Any]]]]:
    """op -> case -> (record, units per second of ours and of the baseline), for `HISTORY_OPS`."""
    found = {op: _history(op, records) for op in HISTORY_OPS}
    return {op: cases for op, cases in found.items() if cases}


def history_figure(device: str, records: Sequence[Record], path: Path) -> None:
    """Throughput of training and inference over records: ours, and dashed the baseline."""
    found = histories(records)
    with drawing.style():
        figure = Figure(figsize=(5.5 * len(found), 3.6), layout="constrained")
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, (op, cases) in zip(panels, found.items(), strict=True):
            used = [r for r in records if any(name in r.cases for name in cases)]
            for number, (name, points) in enumerate(cases.items()):
                colour = drawing.colour(number)
                for side, look in (("ours", "o-"), ("baseline", "s--")):
                    xy = [(used.index(r), p[side]) for r, p in points if p[side] is not None]
                    if xy:
                        label = name if side == "ours" else None
                        axes.plot(
                            *zip(*xy, strict=True),
                            look,
                            color=colour,
                            label=label,
                            markersize=4,
                            fillstyle="full" if label else "none",
                        )
            axes.set_xticks(
                range(len(used)), [f"{r.commit}\n{r.date[:10]}" for r in used], fontsize=7
            )
            axes.set_xlim(-0.5, len(used) - 0.5)
            axes.set(title=op, ylabel=f"{HISTORY_OPS[op]} per second", ylim=(0, None))
            axes.legend(loc="best", fontsize=7)
        figure.suptitle(
            f"{device}: throughput over commits (dashed: the baseline, same run)",
            x=0.01,
            ha="left",
            fontsize=11,
        )
        drawing.save(figure, path)


def _history(op: str, records: Sequence[Record]) -> dict[str, list[tuple[Record, Any]]]:
    found: dict[str, list[tuple[Record, Any]]] = {}
    for record in records:
        for name, row in record.cases.items():
            if row["op"] != op or not row["units"] or row["along"] is not None:
                continue
            baseline = row["sides"].get(row["baseline"])
            number = row["units"][1]
            point = {
                "ours": number / row["sides"]["ours"]["seconds"]["median"],
                "baseline": number / baseline["seconds"]["median"] if baseline else None,
            }
            found.setdefault(name, []).append((record, point))
    return found


def growth_figure(curves: Sequence[Curve], path: Path) -> None:
    """A row per curve: time and memory of every side, with the line through each."""
    with drawing.style():
        figure = Figure(figsize=(9, 2.7 * len(curves)), layout="constrained")
        panels = figure.subplots(len(curves), 2, squeeze=False)
        for (times, memory), curve in zip(panels, curves, strict=True):
            for number, side in enumerate(curve.seconds):
                _points_and_line(times, curve.x, curve.seconds[side], number, side)
                _points_and_line(memory, curve.x, curve.mib[side], number, side)
            label = NAMES.get(curve.along, curve.along)
            for axes, values, title in (
                (times, curve.seconds, "time"),
                (memory, curve.mib, "peak memory, MiB"),
            ):
                largest = max((v for side in values.values() for v in side if v), default=1.0)
                axes.set(xlabel=label, ylabel=title, ylim=(0, 1.12 * largest))
                axes.set_xlim(-0.02 * curve.x[-1], 1.05 * curve.x[-1])
                axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            times.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _seconds_tick(v)))
            if not any(value for side in curve.mib.values() for value in side):
                memory.set_axis_off()  # nobody measured it
            times.set_title(curve.title, loc="left")
            times.legend(loc="best", fontsize=8)
        drawing.save(figure, path)


def _points_and_line(
    axes: Any, x: Sequence[float], y: Sequence[float | None], number: int, side: str
) -> None:
    points = [(a, b) for a, b in zip(x, y, strict=True) if b is not None]
    line = fit(list(x), list(y))
    if not points:
        return
    colour = drawing.colour(number)
    axes.plot(
        *zip(*points, strict=True), drawing.marker(number), color=colour, label=side, markersize=5
    )
    if line is not None:
        axes.plot(
            [0, x[-1]],
            [line.intercept, line.intercept + line.slope * x[-1]],
            color=colour,
            linewidth=1,
            alpha=0.7,
        )


def course_figure(cases: Sequence[Newest], path: Path) -> None:
    """Resident memory of the process over the frames of each long video."""
    with drawing.style():
        figure = Figure(figsize=(8, 3.8), layout="constrained")
        axes = figure.subplots()
        for number, case in enumerate(cases):
            course = thinned(case.ours["more"]["resident_by_frame_mib"])
            axes.plot(
                *zip(*course, strict=True),
                color=drawing.colour(number),
                linewidth=1.2,
                label=case.row["name"],
            )
        axes.set(xlabel="frame", ylabel="resident memory of the process, MiB")
        axes.set(ylim=(0, None), xscale="symlog", xlim=(0, None))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
        axes.legend(loc="lower right")
        drawing.save(figure, path)


def thinned(course: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """(frame, MiB) points, at most `MOST_POINTS`; peaks of a stretch are kept."""
    stride = -(-len(course) // MOST_POINTS)
    stretches = (course[i : i + stride] for i in range(0, len(course), stride))
    return [(part[0][0], max(value for _, value in part)) for part in stretches]


def long_videos(cases: Mapping[str, Newest]) -> list[Newest]:
    """Cases that kept the course of the memory."""
    return [c for c in cases.values() if c.ours["more"].get("resident_by_frame_mib")]
