"""The metrics as a table to read."""

from __future__ import annotations

from seqformer.evaluation.ytvis_metric import YTVISMetrics


def format_table(metrics: YTVISMetrics) -> str:
    """Percentages: the twelve numbers, then a line per class. "-" where nothing is to be found."""
    names = list(metrics.stats)
    width = max([len("all classes"), *(len(row["name"]) for row in metrics.per_class.values())])
    header = f"{'':{width}}  {'instances':>9}" + "".join(f"{name:>7}" for name in names)
    total = sum(row["num_instances"] for row in metrics.per_class.values())
    lines = [header, _line("all classes", width, total, metrics.stats, names)]
    lines.append("-" * len(header))
    lines += [
        _line(row["name"], width, row["num_instances"], row, names)
        for row in metrics.per_class.values()
    ]
    return "\n".join(lines)


def _line(
    label: str, width: int, num_instances: int, numbers: dict[str, float], names: list[str]
) -> str:
    cells = (f"{100 * numbers[name]:7.2f}" if numbers[name] >= 0 else f"{'-':>7}" for name in names)
    return f"{label:{width}}  {num_instances:>9}" + "".join(cells)
