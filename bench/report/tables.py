"""Measured tables: a device's machine, and its cases by group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from bench.offline.roofline import Device, floors
from bench.report import formatting as f
from bench.report.history import Newest, Record

GROUPS = {
    "model": "Whole model",
    "blocks": "Blocks",
    "kernels": "Kernels",
    "data": "Data loading",
    "scoring": "Scoring",
    "growth": "Growth",
}
FACTS = ("cores", "sm", "multiprocessors", "driver", "cuda", "torch", "triton", "numpy", "python")
STATE = ("clocks", "clocks_before", "clocks_after")
"""Entries of `extra` with clocks, shown with the machine."""
SHORT = 6
"""Entries of a list that `extra` shows; longer ones are counted."""


def machine_table(records: Sequence[Record]) -> str:
    """One row per record: where, when, at which commit, in which state of the machine."""
    rows = []
    for record in records:
        facts = [f"{k} {record.machine[k]}" for k in FACTS if record.machine.get(k) is not None]
        rows.append(
            [
                f"[{record.part}](results/{quote(record.place)})",
                record.date[:16].replace("T", " "),
                f"`{record.commit}`",
                ", ".join(facts),
                _state(record),
                f"{len(record.cases)}",
            ]
        )
    columns = ["part", "date (UTC)", "commit", "versions", "load, clocks", "cases"]
    return f.table(columns, rows, numbers_from=5)


def _state(record: Record) -> str:
    """Load average before and after on a CPU, clocks before and after on a GPU."""
    extra, found = record.extra, []
    load = record.machine.get("load_average"), extra.get("load_average_at_end")
    for name, values in zip(("load", "after"), load, strict=True):
        if values:
            found.append(f"{name} " + " ".join(f"{value:.1f}" for value in values))
    for name in STATE:
        for key, value in (extra.get(name) or {}).items():
            if value is not None:
                found.append(f"{key.removeprefix('clocks.')} {value}")
    return "; ".join(found) or "–"


def extra_lines(records: Iterable[Record]) -> list[str]:
    """What belongs to each run besides its cases."""
    shown = []
    for record in records:
        values = {k: v for k, v in record.extra.items() if k not in (*STATE, "load_average_at_end")}
        parts = [_plain(key, value) for key, value in values.items() if value not in (None, [], {})]
        if parts:
            shown.append(f"- {record.part}, `{record.commit}`: " + "; ".join(parts))
    return shown


def _plain(key: str, value: Any) -> str:
    name = key.replace("_", " ")
    return f"{name} {_brief(value)}"


def _brief(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f.digits(value, 4)
    if isinstance(value, Mapping) and len(value) <= SHORT:
        return "(" + ", ".join(_plain(k, v) for k, v in value.items()) + ")"
    if isinstance(value, (Mapping, Sequence)) and not isinstance(value, str):
        if len(value) > SHORT:
            return f"{len(value)} entries"
        return ", ".join(_brief(v) for v in value)
    return str(value)


def group_tables(
    cases: Mapping[str, Newest], peaks: Device | None, ceilings: Mapping[str, float]
) -> Iterable[tuple[str, str]]:
    """(group, table) of each group that has cases, in the order of `GROUPS`."""
    for group, members in by_group(cases.values()).items():
        yield group, case_table(members, peaks, ceilings)


def by_group(cases: Iterable[Newest]) -> dict[str, list[Newest]]:
    """Cases that are not on a growth curve, by group."""
    groups: dict[str, list[Newest]] = {group: [] for group in GROUPS}
    for case in cases:
        if case.row["along"] is None:
            groups.setdefault(case.row["group"], []).append(case)
    return {group: members for group, members in groups.items() if members}


def case_table(cases: list[Newest], peaks: Device | None, ceilings: Mapping[str, float]) -> str:
    """A row per case; columns that no case fills are left out."""
    sides = list(dict.fromkeys(side for case in cases for side in case.ratios))
    with_floor = peaks is not None
    with_units = any(case.row["units"] for case in cases)
    with_counts = any(counts(case.ours["more"]) for case in cases)
    with_clocks = any(other_clocks(case.ours["more"]) for case in cases)
    columns = ["case", "shapes", "dtype", "direction", "ours, median (20–80 %)"]
    columns += ["clock"] if len({case.ours["clock"] for case in cases}) > 1 else []
    with_clock = columns[-1] == "clock"
    columns += [f"{side}: time, memory" for side in sides]
    columns += ["of roofline"] * with_floor + ["throughput"] * with_units + ["peak memory"]
    columns += ["launches, operators"] * with_counts + ["other clocks"] * with_clocks
    with_commit = len({case.record.place for case in cases}) > 1
    columns += ["commit"] * with_commit
    rows = []
    for case in cases:
        row = case.row
        cells = [row["name"], f.shapes(row["shapes"]), row["dtype"], row["direction"]]
        cells.append(f.spread(case.ours["seconds"]))
        cells += [case.ours["clock"]] * with_clock
        cells += [side_cell(case, side) for side in sides]
        if peaks is not None:
            floor = floors(row, peaks, ceilings)
            took = case.ours["seconds"]["median"]
            cells.append(f"{f.percent(floor.seconds / took)} ({floor.kind})" if floor else "–")
        cells += [throughput(case)] * with_units
        cells.append(f.size(case.ours["peak_bytes"]))
        cells += [_counts_cell(case)] * with_counts
        cells += [other_clocks(case.ours["more"]) or "–"] * with_clocks
        cells += [f"`{case.record.commit}`"] * with_commit
        rows.append(cells)
    return f.table(columns, rows, numbers_from=4)


def side_cell(case: Newest, side: str) -> str:
    """Time and memory of a side over ours, or why it was left out; * where from an earlier run."""
    if side in (left_out := case.row.get("left_out") or {}):
        return left_out[side]
    if side not in case.ratios:
        return "–"
    cell = f.ratio(case.time_ratio(side))
    memory = case.memory_ratio(side)
    cell += "" if memory is None else f", {f.ratio(memory)}"
    return cell + " \\*" * (side in case.older)


def throughput(case: Newest) -> str:
    """Units a second, from the median."""
    if not case.row["units"]:
        return "–"
    unit, number = case.row["units"]
    return f"{f.digits(number / case.ours['seconds']['median'])} {unit}/s"


def counts(more: Mapping[str, Any]) -> str:
    """Launches and operators of a call where somebody counted them."""
    return ", ".join(f"{more[k]:,} {k}" for k in ("launches", "operators") if more.get(k))


def _counts_cell(case: Newest) -> str:
    cell = counts(case.ours["more"]) or "–"
    baseline = case.row["sides"].get(case.row["baseline"])
    theirs = counts(baseline["more"]) if baseline else ""
    return f"{cell} ({case.row['baseline']}: {theirs})" if theirs else cell


def other_clocks(more: Mapping[str, Any]) -> str:
    """Medians that stand beside the one that counts."""
    found = {k: v for k, v in more.items() if isinstance(v, Mapping) and "median" in v}
    return ", ".join(f"{k.replace('_', ' ')} {f.seconds(v['median'])}" for k, v in found.items())
