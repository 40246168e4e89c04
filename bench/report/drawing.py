"""How figures look and are saved: same input, same bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

STYLE: dict[str, Any] = {
    "svg.hashsalt": "bench.report",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
OURS = "#0b6e4f"
OTHERS = ("#c8553d", "#4a6fa5", "#8d6a9f", "#b08900", "#6b6b6b", "#2f4858")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def colour(number: int) -> str:
    """Of the side with this number; ours is 0."""
    return OURS if number == 0 else OTHERS[(number - 1) % len(OTHERS)]


def marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


@contextmanager
def style() -> Iterator[None]:
    """Fixed settings, whatever the user's own."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def save(figure: Figure, path: Path) -> None:
    """Write an SVG without date or version; needs `style()` around drawing and saving."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    # Trailing blanks, which version control complains about.
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"[ \t]+$", "", text, flags=re.M), encoding="utf-8")


def file_name(*parts: str) -> str:
    """`nvidia-h200-kernels.svg`."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", p.lower()).strip("-") for p in parts) + ".svg"
