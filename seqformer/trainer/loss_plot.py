"""The loss curve of a run."""

from __future__ import annotations

import io
import math
from pathlib import Path

from seqformer.files import write_bytes
from seqformer.trainer.run_log import SHORT_NAMES, read_training_lines


def plot_losses(log_path: Path, png_path: Path) -> None:
    """The total loss and the last layer's parts over the steps, as a PNG.

    Raises: WriteError.
    """
    records = read_training_lines(log_path)
    if not records:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    total, parts = figure.subplots(1, 2)
    steps = [r["step"] for r in records]
    total.plot(steps, [r["loss"] for r in records], color="black")
    total.set(title="total loss", xlabel="step", yscale="log")
    for name, short in SHORT_NAMES.items():
        if name in records[0]:
            values = [r.get(name) for r in records]
            values = [v if isinstance(v, (int, float)) else math.nan for v in values]
            parts.plot(steps, values, label=short)
    parts.set(title="last decoder layer, unweighted", xlabel="step", yscale="log")
    if parts.lines:
        parts.legend()
    for axes in (total, parts):
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_bytes(png_path, picture.getvalue())
