"""The tables of docs/kernels.md, from the records.

python -m bench.counts tables            # writes them between the page's marks
python -m bench.counts tables --print
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.offline.counts.attention import DIRECTIONS, DTYPES, WORKLOADS
from bench.offline.counts.store import FOLDER, read_rows
from seqformer.files import write_text

PAGE = Path(__file__).parents[3] / "docs" / "kernels.md"
OURS = "ours"
Row = dict[str, Any]


def _number(value: float | None, form: str = ".0f") -> str:
    return "-" if value is None else format(value, form)


def _counted(row: Row) -> str:
    """Cells from PTX to DRAM."""
    atomics = f"{row['atomics']:.0f}/{row['atomic_sectors']:.0f}/{row['added']:.0f}"
    return (
        f"{row['ptx']:.0f} | {_number(row['sass'])} | {row['requests']:.1f} "
        f"| {row['wavefronts']:.1f} | {row['l1_hit']:.0%} | {row['shared']:.1f} "
        f"| {row['stored']:.1f} | {atomics} | {row['l2_reads']:.0f} "
        f"| {row['dram_read']:.1f}+{row['dram_write']:.1f}"
    )


def _bound(row: Row) -> float:
    """Of a row that does not say it, there is one launch."""
    return row.get("bound", row["bounds"][row["binds"]])


def _digits(row: Row) -> int:
    """After the point of a bound: one where a whole number would say little."""
    return int(_bound(row) < 10)


COLUMNS = "PTX | SASS | requests | wavefronts | L1 hit | shared | stored | atomics | L2 | DRAM MB"


def _order(row: Row) -> tuple[int, ...]:
    """Workload, direction, type, GPU."""
    return (
        list(WORKLOADS).index(row["workload"]),
        DIRECTIONS.index(row["direction"]),
        list(DTYPES).index(row["dtype"]),
        row["capability"],
    )


def attention(rows: Sequence[Row]) -> str:
    """Ours, workload after workload."""
    lines = [f"| | GPU | {COLUMNS} | bound us |", "|" + "---|" * 13]
    title = ""
    for row in sorted(rows, key=_order):
        if row["workload"] != title:
            title = row["workload"]
            lines.append(f"| *{title}* |" + " |" * 12)
        bounds = ", ".join(f"{kind} {us:.0f}" for kind, us in row["bounds"].items())
        lines.append(
            f"| {row['direction']} {row['dtype']} | {row['gpu']} | {_counted(row)} "
            f"| **{_bound(row):.{_digits(row)}f} ({row['binds']})**: {bounds} |"
        )
    return "\n".join(lines)


def launches(rows: Sequence[Row]) -> str:
    """Of the directions that take several, what each takes at least."""
    lines = ["| | GPU | PTX | SASS | registers | bound us |", "|" + "---|" * 6]
    for row in sorted(rows, key=_order):
        if not row.get("launches"):
            continue
        title = f"{row['workload']}, {row['direction']} {row['dtype']}"
        lines.append(f"| *{title}* |" + " |" * 5)
        for launch in row["launches"]:
            bounds = launch["bounds"]
            binds = max(bounds, key=bounds.__getitem__)
            parts = ", ".join(f"{kind} {us:.1f}" for kind, us in bounds.items())
            lines.append(
                f"| `{launch['kernel'].rpartition('.')[2]}` | {row['gpu']} | {launch['ptx']:.0f} "
                f"| {_number(launch['sass'])} | {launch['registers']} "
                f"| {bounds[binds]:.1f} ({binds}): {parts} |"
            )
    return "\n".join(lines)


def peers(ours: Sequence[Row], theirs: Sequence[Row], least: Sequence[Row] = ()) -> str:
    """Launch after launch, in order of the bound; ours where a peer has the launch, too, and what
    any implementation has to move."""
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in theirs:
        groups.setdefault(_order(row), []).append(row)
    for row in ours:
        if _order(row) in groups:
            groups[_order(row)].append(row | {"side": OURS})
    lines = [f"| | {COLUMNS} | bound us | error |", "|" + "---|" * 13]
    for key in sorted(groups):
        first = groups[key][0]
        title = f"{first['workload']}, {first['direction']} {first['dtype']}, {first['gpu']}"
        lines.append(f"| *{title}* |" + " |" * 12)
        for row in (row for row in least if _order(row) == key):
            moved = f"{row['dram_read']:.1f}+{row['dram_write']:.1f}"
            lines.append(
                f"| *least traffic* |{' |' * 9} {moved} | {_bound(row):.1f} ({row['binds']}) | |"
            )
        for row in sorted(groups[key], key=_bound):
            name = f"**{OURS}**" if row["side"] == OURS else row["side"]
            lines.append(
                f"| {name} | {_counted(row)} | {_bound(row):.{_digits(row)}f} ({row['binds']}) "
                f"| {row['error']:.0e} |"
            )
    return "\n".join(lines)


def masks(rows: Sequence[Row]) -> str:
    """All launches of the mask head, losses and thresholds."""
    lines = [
        "| | GPU | PTX | registers | requests | wavefronts | stored | L1 hit | L2 | DRAM MB "
        "| least MB | bound us |",
        "|" + "---|" * 12,
    ]
    for row in sorted(rows, key=lambda r: (r["operation"], r["dtype"], r["capability"])):
        lines.append(
            f"| {row['operation']}: {row['kernel']} {row['dtype']} | {row['gpu']} "
            f"| {row['instructions']:.0f} | {row['registers']} | {row['requests']:.1f} "
            f"| {row['wavefronts']:.1f} | {row['stored']:.1f} | {row['l1_hit']:.0%} "
            f"| {row['l2_reads']:.1f} | {row['dram']:.2f} | {row['least']:.2f} "
            f"| {row['bounds'][row['binds']]:.1f} ({row['binds']}) |"
        )
    return "\n".join(lines)


def tables(folder: Path = FOLDER) -> dict[str, str]:
    """Mark of the page -> its table."""
    from bench.offline.counts.attention import PART as OF_ATTENTION
    from bench.offline.counts.least import PART as OF_LEAST
    from bench.offline.counts.masks import PART as OF_MASKS
    from bench.offline.counts.peers import PART as OF_PEERS

    ours = read_rows(folder / "attention.json", OF_ATTENTION)
    theirs = read_rows(folder / "peers.json", OF_PEERS)
    least = read_rows(folder / "least.json", OF_LEAST)
    # Float16 is there for the peer that has nothing else.
    own = [row for row in ours if row["dtype"] != "float16"]
    return {
        "counts": attention(own),
        "launches": launches(own),
        "peers": peers(ours, theirs, least),
        "masks": masks(read_rows(folder / "masks.json", OF_MASKS)),
    }


def with_tables(page: str, found: dict[str, str]) -> str:
    """The page with its tables replaced. Raises: ValueError: it has not all marks."""
    for name, text in found.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        pattern = re.compile(rf"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"{PAGE.name} has no marks {begin} and {end}")
        page = pattern.sub(lambda _, text=text: f"{begin}\n{text}\n{end}", page)  # noqa: B023
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.counts tables", description=__doc__.split("\n")[0])
    parser.add_argument("--print", action="store_true", dest="prints", help="and write nothing")
    options = parser.parse_args(arguments)
    found = tables()
    if options.prints:
        print("\n\n".join(found.values()))
    else:
        write_text(PAGE, with_tables(PAGE.read_text(encoding="utf-8"), found))
        print(PAGE)
    return 0
