"""A record as a table on the terminal."""

from __future__ import annotations

from typing import Any


def of(record: dict[str, Any]) -> str:
    """One line per side: median, 20 to 80 percent, memory, and how much faster ours is."""
    return "\n".join(line for row in record["cases"] for line in lines_of(row))


def lines_of(row: dict[str, Any]) -> list[str]:
    """The lines of one case."""
    lines = [row["name"]]
    for name, side in row["sides"].items():
        if "error" in side:
            lines.append(f"  {name:24}{side['error']}")
            continue
        seconds = side["seconds"]
        spread = f"{_time(seconds['p20'])}..{_time(seconds['p80'])}"
        peak = "-" if side["peak_bytes"] is None else f"{side['peak_bytes'] / 2**20:.1f} MiB"
        line = f"  {name:24}{_time(seconds['median']):>11}{spread:>24}{peak:>14}"
        ratio = row["ratios"].get(name)
        if ratio is not None:
            line += f"   ours is {ratio['time']:.2f}x as fast"
            if ratio["memory"] is not None:
                line += f", {_share(ratio['memory'])} of its memory"
        lines.append(line)
    return lines


def _share(memory_ratio: float) -> str:
    return f"{1 / memory_ratio:.2f}" if memory_ratio else "more than all"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3f} ms"
