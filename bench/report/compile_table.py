"""What the compiled kernels need on each target, from the offline-compiled table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench.report import formatting as f

TABLE = Path(__file__).parents[1] / "results" / "compile.json"


def rows(path: Path = TABLE) -> list[dict[str, Any]]:
    """Rows of the launches that the model uses; none where the table is absent."""
    if not path.is_file():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    return [row for row in content["rows"] if row["is_model"]]


def most(
    found: list[dict[str, Any]], column: str, case: str, targets: tuple[str, ...]
) -> float | None:
    """Largest value of a column among cases whose whole name matches; None without any."""
    values = [
        row[column]
        for row in found
        if re.fullmatch(case, row["case"])
        and row["target"] in targets
        and row.get(column) is not None
    ]
    return max(values, default=None)


def section(found: list[dict[str, Any]]) -> str:
    """Per case: registers and instructions per row on every target, and all spills."""
    if not found:
        return "`bench/results/compile.json` is absent: `python -m bench.compile` writes it."
    targets = sorted({row["target"] for row in found}, key=lambda t: (not t.isdigit(), t.zfill(8)))
    cells = {(row["case"], row["target"]): row for row in found}
    lines = [
        [case, *(_cell(cells.get((case, target))) for target in targets)]
        for case in sorted({row["case"] for row in found})
    ]
    columns = ["kernel", *(f"sm_{t}" if t.isdigit() else t for t in targets)]
    spilling = [f"{r['case']} on {r['target']}" for r in found if r.get("spills")]
    failing = [f"{r['case']} on {r['target']}" for r in found if r.get("error")]
    folded = "<details><summary>All kernels of the model</summary>"
    return (
        "Registers, and warp instructions executed per row of work where the code can be read; "
        "compiled without a GPU by `python -m bench.compile`. Inputs of the model above, not "
        f"times. Spilling: {', '.join(spilling) or 'none'}. Not compiling: "
        f"{', '.join(failing) or 'none'}.\n\n{folded}\n\n"
        + f.table(columns, lines)
        + "\n\n</details>"
    )


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row.get("registers") is None:
        return "–"
    per_row = "" if row.get("per_row") is None else f", {row['per_row']:,.0f}/row"
    spilled = f", spills {row['spills']} B" if row.get("spills") else ""
    return f"{row['registers']}{per_row}{spilled}"
