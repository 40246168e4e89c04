"""How numbers, shapes and tables look on the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MIB = 2**20


def digits(value: float, significant: int = 3) -> str:
    """A number with so many significant digits or more, thousands separated, without exponent."""
    if value == 0:
        return "0"
    exponent = int(f"{value:.{significant - 1}e}".split("e")[1])
    places = significant - 1 - exponent
    return f"{value:,.{max(places, 0)}f}"


def seconds(value: float) -> str:
    """Seconds in a fitting unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 0.9995:
            return f"{digits(value * factor)} {unit}"
    return f"{digits(value * 1e6)} µs"


def spread(row: Mapping[str, Any]) -> str:
    """Median and 20 to 80 percent quantiles of a `seconds` entry, in one unit."""
    unit = seconds(row["median"]).split()[1]
    factor = {"s": 1.0, "ms": 1e3, "µs": 1e6}[unit]
    low, middle, high = (digits(factor * row[key]) for key in ("p20", "median", "p80"))
    return f"{middle} {unit} ({low}–{high})"


def ratio(value: float | None) -> str:
    """A ratio to ours: "2.00x"."""
    return "–" if value is None else f"{value:.2f}x" if value < 100 else f"{value:,.0f}x"


def size(value: float | None) -> str:
    """Bytes as MiB."""
    return "–" if value is None else f"{digits(value / MIB)} MiB"


def percent(value: float) -> str:
    return f"{100 * value:.0f} %" if abs(value) >= 0.1 else f"{100 * value:.1f} %"


def shapes(values: Mapping[str, Any]) -> str:
    """Letters and numbers; pixels HW only where height and width are not there."""
    shown = {k: v for k, v in values.items() if k != "HW" or not {"H", "W"} <= set(values)}
    return " ".join(f"{key}={value}" for key, value in shown.items()) or "–"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 1) -> str:
    """A Markdown table; columns from `numbers_from` on are aligned right."""
    lines = [
        _line(columns),
        _line(["---" if i < numbers_from else "---:" for i in range(len(columns))]),
    ]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
