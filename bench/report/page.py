"""`bench/REPORT.md`: the sections in order, and the figures that they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.offline.roofline import device_named
from bench.report import (
    compile_table,
    drawing,
    growth,
    modelled,
    plots,
    readme,
    regressions,
    tables,
)
from bench.report import formatting as f
from bench.report.history import Newest, Records, Row

PLOTS = "plots"
"""Folder of figures beside the page."""

CONTRIBUTE = """\
On a GPU, from a clean checkout; torch, triton, numpy and einops are enough, and a part takes at
most eight minutes:

```bash
python -m bench.gpu --part first    # then --part ops, --part model, --part peers
git add bench/results/              # the new <device>/<date>-<commit>-<part>.json
python -m bench.report              # rewrites this page, its plots and the README's blocks
```

On a CPU, `pytest bench --measure` in place of the first line; its record goes to
`bench/results/cpu/`. A commit with the record and the page is the whole contribution."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that the page is made of.

    Attributes:
        declared: cases with their costs, for modelled devices.
        compiled: rows of the compiled table.
    """

    records: Records
    declared: Sequence[Row] = ()
    compiled: Sequence[dict] = ()


def page(inputs: Inputs) -> str:
    """The page's text. The same inputs give the same text."""
    records = inputs.records
    found = regressions.compared(records)
    devices = modelled.unmeasured(records)
    sections = [
        ("Summary", _summary(records, found, devices)),
        ("Regressions", regressions.section(found)),
        ("Figures, with the command of each", readme.section(records)),
        *((f"Measured: {name}", _device(records, name)) for name in records.devices()),
        ("Devices not measured", modelled.section(inputs.declared, devices)),
        ("Compiled kernels", compile_table.section(list(inputs.compiled))),
        ("How to contribute a measurement", CONTRIBUTE),
    ]
    head = (
        "# Benchmark report\n\nWritten by `python -m bench.report` from the records in "
        "[`bench/results/`](results); not to be edited. Ratios are other / ours of one process, so "
        "2.00x means that ours takes half of the time or memory."
    )
    return "\n\n".join([head, *(f"## {title}\n\n{text}" for title, text in sections)]) + "\n"


def draw(records: Records, folder: Path) -> list[Path]:
    """All figures of the page, into a folder."""
    drawn = []
    for device in records.devices():
        cases = records.newest(device)
        for group, members in tables.by_group(cases.values()).items():
            for part, rows in plots.parted(group, members).items():
                path = folder / drawing.file_name(device, part)
                plots.cases_figure(f"{device}: {part}", rows, path)
                drawn.append(path)
        if plots.histories(records.of(device)):
            path = folder / drawing.file_name(device, "throughput")
            plots.history_figure(device, records.of(device), path)
            drawn.append(path)
        for op, curves in growth.by_op(growth.curves(cases.values())).items():
            path = folder / drawing.file_name(device, "growth", op)
            plots.growth_figure(curves, path)
            drawn.append(path)
        if videos := plots.long_videos(cases):
            path = folder / drawing.file_name(device, "long-video")
            plots.course_figure(videos, path)
            drawn.append(path)
    return drawn


def _summary(records: Records, found: list[regressions.Compared], devices: Sequence) -> str:
    lines = []
    if not records.records:
        lines.append("Nothing is measured yet: `bench/results/` holds no record.")
    else:
        rows = []
        for name in records.devices():
            own = records.of(name)
            parts = ", ".join(sorted({r.part for r in own}))
            newest = f"{own[-1].date[:10]}, `{own[-1].commit}`"
            rows.append([name, parts, newest, f"{len(own)}", f"{len(records.newest(name))}"])
        lines.append(f.table(["device", "parts", "newest", "records", "cases"], rows, 3))
        if headline := [row for name in records.devices() for row in _headline(records, name)]:
            columns = ["whole model", "device", "of the published time", "of its memory"]
            lines.append(f.table(columns, headline, 2))
    named = [x for x in found if x.is_named]
    if named:
        lines.append("**Regressions:** " + "; ".join(x.sentence() for x in named) + ".")
    elif found:
        lines.append("No regression against the records before.")
    if devices:
        names = ", ".join(d.name for d in devices)
        lines.append(f"*Not measured, modelled below: {names}.*")
    if records.left_out:
        lines.append(
            "Left out, as they are older than the records' schema: "
            + ", ".join(f"`{place}`" for place in records.left_out)
            + "."
        )
    return "\n\n".join(lines)


def _headline(records: Records, device: str) -> list[list[str]]:
    rows = []
    for case in records.newest(device).values():
        row = case.row
        if row["op"] not in plots.HISTORY_OPS or row["along"] is not None:
            continue
        found = case.time_ratio(row["baseline"]), case.memory_ratio(row["baseline"])
        if found[0]:
            shares = [f"{1 / ratio:.2f}" if ratio else "–" for ratio in found]
            rows.append([row["name"], device, *shares])
    return rows


def _device(records: Records, device: str) -> str:
    own, cases = records.of(device), records.newest(device)
    peaks = device_named(device)
    ceilings = next((r.extra["ceilings"] for r in reversed(own) if r.extra.get("ceilings")), {})
    shown = [r for r in reversed(own) if any(case.record is r for case in cases.values())]
    lines = ["Every case as its newest record has it; the records:", tables.machine_table(shown)]
    if extra := tables.extra_lines(shown):
        lines.append("\n".join(extra))
    if any(case.older for case in cases.values()):
        lines.append("\\* both sides as an earlier record has them; the newest has ours alone.")
    members = tables.by_group(cases.values())
    for group, table in tables.group_tables(cases, peaks, ceilings):
        lines += [f"### {tables.GROUPS.get(group, group)}", table]
        lines += [_figure(device, part) for part in plots.parted(group, members[group])]
    if plots.histories(own):
        lines += ["### Throughput over commits", _figure(device, "throughput")]
    points = [case for case in cases.values() if case.row["along"] is not None]
    if points:
        lines += _growth(device, points)
        lines += ["<details><summary>All points</summary>"]
        lines += [tables.case_table(points, peaks, ceilings), "</details>"]
    if plots.long_videos(cases):
        lines += ["### Memory over the frames of a long video", _figure(device, "long-video")]
    return "\n\n".join(lines)


def _growth(device: str, points: Sequence[Newest]) -> list[str]:
    curves = growth.curves(points)
    lines = ["### What it costs as it grows"]
    lines += [growth.table(curves)] if curves else []
    for op, members in growth.by_op(curves).items():
        lines.append(_figure(device, "growth", op))
        told = [(curve.title, growth.facts(curve)) for curve in members]
        lines.append("\n".join(f"- {t}: {'; '.join(facts)}." for t, facts in told if facts))
    return [line for line in lines if line]


def _figure(*parts: str) -> str:
    return f"![{': '.join(parts)}]({PLOTS}/{drawing.file_name(*parts)})"
