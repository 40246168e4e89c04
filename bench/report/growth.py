"""Cost as it grows: curves of cases along one letter, a line through each, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.report import formatting as f
from bench.report.history import Newest

RESOLUTION = ("H", "W", "HW", "S")
"""Letters that vary together when the frame size does."""
NAMES = {
    "B": "clips B",
    "T": "frames T",
    "Q": "queries Q",
    "N": "instances N",
    "H": "pixels per frame",
    "W": "pixels per frame",
    "HW": "pixels per frame",
    "S": "tokens S",
    "K": "classes K",
}


FLAT = 0.1
"""Change of time from end to end, as a share, below which a curve is called flat."""
NEGLIGIBLE = 0.05
"""Fixed cost, as a share of the time at the lower end."""


@dataclass(frozen=True)
class Line:
    """Least-squares line through measured points; seconds or MiB over the letter.

    Attributes:
        r2: share of the variance that the line explains.
        deviation: largest distance of a point from the line, as a share of the line there.
        at: where that is.
    """

    slope: float
    intercept: float
    r2: float
    deviation: float
    at: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One op along one letter; sides -> values at `x`, None where a side was not measured."""

    op: str
    title: str
    along: str
    x: list[float]
    seconds: dict[str, list[float | None]]
    mib: dict[str, list[float | None]]


def curves(cases: Iterable[Newest]) -> list[Curve]:
    """Curves of two points or more, by op, dtype, direction and the shapes that stay."""
    groups: dict[tuple[Any, ...], list[Newest]] = {}
    for case in cases:
        if case.row["along"] is not None:
            groups.setdefault(_key(case.row), []).append(case)
    found = []
    for (op, direction, dtype, along, fixed), members in groups.items():
        members = sorted(members, key=lambda case: position(case.row))
        if len(members) < 2:
            continue
        sides = list(dict.fromkeys(side for m in members for side in m.row["sides"]))
        words = [op, *([] if direction == "-" else [direction]), dtype]
        stays = f.shapes(dict(fixed))
        found.append(
            Curve(
                op=op,
                title=f"{' '.join(words)} along {NAMES.get(along, along)}"
                + ("" if stays == "–" else f" ({stays})"),
                along=along,
                x=[position(m.row) for m in members],
                seconds={side: [_seconds(m.row, side) for m in members] for side in sides},
                mib={side: [_mib(m.row, side) for m in members] for side in sides},
            )
        )
    return found


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    along = row["along"]
    varying = RESOLUTION if along in RESOLUTION else (along,)
    fixed = tuple((k, v) for k, v in row["shapes"].items() if k not in varying)
    return row["op"], row["direction"], row["dtype"], along, fixed


def position(row: Mapping[str, Any]) -> float:
    """Where a case lies on its curve; for frame sizes the pixels of a frame."""
    shapes, along = row["shapes"], row["along"]
    if along in ("H", "W") and {"H", "W"} <= set(shapes):
        return float(shapes["H"] * shapes["W"])
    return float(shapes[along])


def _seconds(row: Mapping[str, Any], side: str) -> float | None:
    found = row["sides"].get(side)
    return None if found is None else found["seconds"]["median"]


def _mib(row: Mapping[str, Any], side: str) -> float | None:
    found = row["sides"].get(side)
    return None if found is None or found["peak_bytes"] is None else found["peak_bytes"] / f.MIB


def fit(x: list[float], y: list[float | None]) -> Line | None:
    """The line through the points that exist; None for fewer than two."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if b is not None]
    if len({a for a, _ in points}) < 2:
        return None
    a, b = np.array(points).T
    slope, intercept = np.polyfit(a, b, 1)
    line = slope * a + intercept
    spread = ((b - b.mean()) ** 2).sum()
    apart = np.abs(b - line) / np.maximum(np.abs(line), 1e-12)
    worst = int(apart.argmax())
    return Line(
        float(slope),
        float(intercept),
        float(1 - ((b - line) ** 2).sum() / spread) if spread else 1.0,
        float(apart[worst]),
        float(a[worst]),
    )


def facts(curve: Curve) -> list[str]:
    """What the points of ours say about the shape of the curve; explains a deviation.

    Each sentence is a number from the data: the fixed share at both ends, the power of growth over
    the whole range, and the step between neighbours whose cost per unit differs most.
    """
    y = [value for value in curve.seconds["ours"] if value is not None]
    line = fit(curve.x, curve.seconds["ours"])
    if line is None or len(y) < len(curve.x):
        return []
    low, high = curve.x[0], curve.x[-1]
    found = [f"from {_number(low)} to {_number(high)}, {f.digits(y[-1] / y[0])} times the time"]
    if low > 0:
        found[0] += f" (power {np.log(y[-1] / y[0]) / np.log(high / low):.2f})"
    if abs(y[-1] / y[0] - 1) < FLAT:
        return [f"{found[0]}: next to nothing depends on it"]
    shares = [line.intercept / value for value in (y[0], y[-1])]
    if shares[0] > NEGLIGIBLE:
        found.append(
            f"the line's fixed cost, {f.seconds(line.intercept)}, is {f.percent(shares[0])} of the "
            f"time at {_number(low)} and {f.percent(shares[1])} at {_number(high)}"
        )
    elif shares[0] < -NEGLIGIBLE:
        found.append("the line starts below zero: a unit costs more at the upper end")
    else:
        found.append("proportional: the line has no fixed cost to speak of")
    if len(y) > 2:
        steps = [(y[i + 1] - y[i]) / (curve.x[i + 1] - curve.x[i]) for i in range(len(y) - 1)]
        worst = max(range(len(steps)), key=lambda i: abs(steps[i] - line.slope))
        apart = steps[worst] / line.slope if line.slope else 1.0
        found.append(
            f"a unit between {_number(curve.x[worst])} and {_number(curve.x[worst + 1])} costs "
            f"{apart:.2f} times what it does on the line"
        )
    return found


def by_op(found: Iterable[Curve]) -> dict[str, list[Curve]]:
    """Curves of each op, in order."""
    ops: dict[str, list[Curve]] = {}
    for curve in found:
        ops.setdefault(curve.op, []).append(curve)
    return ops


def table(found: list[Curve]) -> str:
    """Fits of all curves and sides, time and memory."""
    rows = []
    for curve in found:
        for side, values in curve.seconds.items():
            time, memory = fit(curve.x, values), fit(curve.x, curve.mib[side])
            if time is None:
                continue
            rows.append(
                [
                    curve.title,
                    side,
                    f"{_number(curve.x[0])} to {_number(curve.x[-1])}",
                    _per_unit(time.slope),
                    _signed_seconds(time.intercept),
                    f"{time.r2:.4f}",
                    f"{f.percent(time.deviation)} at {_number(time.at)}",
                    *_memory(curve.mib[side], memory),
                ]
            )
    columns = ["curve", "side", "range", "time per unit", "intercept", "R²", "largest deviation"]
    columns += ["memory, lower end", "upper end", "largest deviation"]
    return f.table(columns, rows, numbers_from=3)


def _memory(mib: list[float | None], line: Line | None) -> list[str]:
    """Both ends as measured, and the largest deviation from the line."""
    if line is None:
        return ["–"] * 3
    ends = ["–" if end is None else f"{f.digits(end)} MiB" for end in (mib[0], mib[-1])]
    return [*ends, f.percent(line.deviation)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f.digits(value)


def _per_unit(slope: float) -> str:
    return _signed_seconds(slope) if abs(slope) >= 1e-7 else f"{f.digits(slope * 1e9)} ns"


def _signed_seconds(value: float) -> str:
    return ("−" if value < 0 else "") + f.seconds(abs(value))
