"""Devices that nobody has measured: floors of the declared cases, in italics, marked "modelled"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.offline.roofline import DEVICES, Device, device_named, floors, runs_on
from bench.report import formatting as f
from bench.report.history import Records, Row
from bench.report.tables import GROUPS
from bench.suite.schema import Case

TEXT = """\
*Modelled: least times under each GPU's peaks (`bench/offline/roofline.py` has their sources),
by bytes, arithmetic and, for deformable attention, L1 gathers, instructions of the compiled kernels
and atomic additions. A floor is not a time claim: what a call takes is the floor over an efficiency
that only a measurement tells. Of a whole model the bytes are weights and images alone, as if all
activations stayed on the chip, so its floor is much further below what can be reached. A device
leaves this table for the measured ones above as soon as `bench/results/` has a record of it.*"""


DECLARED = Path(__file__).parents[1] / "results" / "declared.json"
"""The costs of the declared cases as last counted; counting takes half a minute."""
ASKED = ("name", "op", "group", "direction", "dtype")


def asked(cases: Iterable[Case]) -> list[Row]:
    """What the cases at one size ask for, in the form of a record's rows; nothing is counted."""
    return [
        {key: getattr(case, key) for key in ASKED}
        | {"shapes": dict(case.shapes), "units": None if case.units is None else list(case.units)}
        for case in cases
        if case.along is None
    ]


def declared(cases: Iterable[Case]) -> list[Row]:
    """The same with their costs, of cases that state one."""
    cases = [case for case in cases if case.along is None]
    costs = [case.cost for case in cases]
    return [
        row | {"bytes": cost.bytes, "flops": cost.flops, "half_flops": cost.half_flops}
        for row, cost in zip(asked(cases), costs, strict=True)
        if cost.bytes or cost.flops
    ]


def write(rows: Sequence[Row], path: Path = DECLARED) -> None:
    """Keep counted costs, a case a line."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def read(path: Path = DECLARED) -> list[Row]:
    """The costs that `write` kept."""
    return json.loads(path.read_text(encoding="utf-8"))


def unmeasured(records: Records) -> list[Device]:
    """Known GPUs without a record."""
    measured = {device_named(name) for name in records.devices()}
    return [device for device in DEVICES if device not in measured]


def section(rows: Sequence[Row], devices: Sequence[Device]) -> str:
    """A row per case, a column per device, folded by group."""
    if not devices:
        return "Every listed GPU has records."
    if not rows:
        return f"{TEXT}\n\nNo declared case states bytes or operations."
    groups: dict[str, list[Row]] = {group: [] for group in GROUPS}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    parts = [TEXT]
    for group in filter(groups.get, groups):
        title = f"<details><summary>{GROUPS.get(group, group)}, modelled</summary>"
        parts += [title, _table(groups[group], devices), "</details>"]
    return "\n\n".join(parts)


def _table(rows: Sequence[Row], devices: Sequence[Device]) -> str:
    lines = [[_italic(row["name"]), *(_cell(row, device) for device in devices)] for row in rows]
    columns = ["case", *(f"{d.name}: floor, modelled" for d in devices)]
    return f.table(columns, lines)


def _cell(row: Mapping[str, Any], device: Device) -> str:
    floor = floors(row, device) if runs_on(row, device) else None
    return "–" if floor is None else _italic(f"{f.seconds(floor.seconds)} ({floor.kind})")


def _italic(text: str) -> str:
    return f"*{text}*"
