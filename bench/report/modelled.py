"""Devices that nobody has measured: floors of the declared cases, in italics, marked "modelled"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.case import Case
from bench.report import formatting as f
from bench.report.records import Records, Row
from bench.roofline import DEVICES, Device, device_named, floors, runs_on

TEXT = """\
*Modelled: least times under each GPU's peaks (`bench/roofline.py` states them with their sources),
by bytes, arithmetic and, for deformable attention, L1 gathers, instructions of the compiled kernels
and atomic additions. A floor is not a time claim: what a call takes is the floor over an efficiency
that only a measurement tells. A device leaves this table for the measured ones above as soon as
`bench/results/` has a record of it.*"""


def declared(cases: Iterable[Case]) -> list[Row]:
    """Cases that state a cost, in the form of a record's rows, without sides."""
    return [
        {
            "name": case.name,
            "op": case.op,
            "group": case.group,
            "direction": case.direction,
            "dtype": case.dtype,
            "shapes": dict(case.shapes),
            "bytes": case.cost.bytes,
            "flops": case.cost.flops,
            "half_flops": case.cost.half_flops,
            "units": case.units,
            "along": case.along,
        }
        for case in cases
        if case.cost.bytes or case.cost.flops
    ]


def unmeasured(records: Records) -> list[Device]:
    """Known GPUs without a record."""
    measured = {device_named(name) for name in records.devices()}
    return [device for device in DEVICES if device not in measured]


def section(rows: Sequence[Mapping[str, Any]], devices: Sequence[Device]) -> str:
    """A row per case, a column per device."""
    if not devices:
        return "Every listed GPU has records."
    if not rows:
        return f"{TEXT}\n\nNo declared case states bytes or operations."
    lines = []
    for row in rows:
        if row["along"] is not None:
            continue
        cells = [_italic(row["name"]), _italic(row["dtype"]), _italic(row["direction"])]
        lines.append(cells + [_cell(row, device) for device in devices])
    columns = ["case", "dtype", "direction", *(f"{d.name}: floor, modelled" for d in devices)]
    return f"{TEXT}\n\n" + f.table(columns, lines, numbers_from=3)


def _cell(row: Mapping[str, Any], device: Device) -> str:
    floor = floors(row, device) if runs_on(row, device) else None
    return "–" if floor is None else _italic(f"{f.seconds(floor.seconds)} ({floor.kind})")


def _italic(text: str) -> str:
    return text if text == "-" else f"*{text}*"
