"""What has run on a GPU, in a paragraph for the README: from the newest record of every GPU."""

from __future__ import annotations

from bench.report.history import Newest, Record, Records

NONE = (
    "Nothing has run on a GPU yet, and no GPU number is given. The compiled code of the Triton "
    "kernels has run through Triton's own launch path on an emulator (`python -m bench.emulate`). "
    "`python -m bench.gpu --part first` makes a first record in eight minutes."
)
FIRST_KINDS = (
    ("msda encoder", "forward", "deformable attention of the encoder, forward"),
    ("msda encoder", "both", "deformable attention of the encoder, both ways"),
    ("training step", "both", "training step"),
    ("inference", "forward", "inference"),
)
"""Operator, direction and name of what is quoted, each in its first case of a record."""


def paragraph(records: Records) -> str:
    """One sentence about what ran and one about what was measured, for every GPU."""
    gpus = [device for device in records.devices() if records.of(device)[-1].kind != "cpu"]
    if not gpus:
        return NONE
    return "\n\n".join(f"{_ran(records.of(gpu))} {_measured(records, gpu)}" for gpu in gpus)


def _ran(made: list[Record]) -> str:
    """Of a GPU's records, oldest first: what the newest says of correctness."""
    newest = made[-1]
    where = (
        f"On {newest.device} ({newest.date[:10]}, commit {newest.commit}, `--part {newest.part}`)"
    )
    extra = newest.extra
    failed = [*extra.get("failed_checks", []), *map(_failure, extra.get("failures", {}).items())]
    launches = extra.get("launches", {})
    ran = ""
    if launches:
        ran = f"{sum(map(bool, launches.values()))} of {len(launches)} kernels ran"
    checked = sum("relative_error" in row for row in extra.get("checks", []))
    if checked:
        ran += f"{' and ' if ran else ''}{checked} checks against float64 were done"
    counts = [row for row in extra.get("counts", []) if "agrees" in row]
    if counts:
        agree = sum(row["agrees"] for row in counts)
        ran += f"; {agree} of {len(counts)} predicted memory counts agree with the GPU's counters"
    outcome = "nothing failed" if not failed else f"**failed: {'; '.join(failed[:3])}**"
    more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
    return f"{where}: {f'{ran}; ' if ran else ''}{outcome}{more}."


def _failure(entry: tuple[str, str]) -> str:
    return f"{entry[0]}: {entry[1]}"


def _measured(records: Records, gpu: str) -> str:
    cases = records.newest(gpu).values()
    parts = []
    for op, direction, name in FIRST_KINDS:
        found = next(
            (
                case
                for case in cases
                if case.row["op"] == op
                and case.row["direction"] in (direction, "-")
                and case.row["along"] is None
            ),
            None,
        )
        if found is not None:
            parts.append(f"{name} ({found.row['dtype']}) {_time(found)}{_beside(found)}")
    return f"Measured: {'; '.join(parts)}." if parts else "Nothing was timed."


def _time(case: Newest) -> str:
    seconds = case.ours["seconds"]["median"]
    return f"{1e3 * seconds:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _beside(case: Newest) -> str:
    """How much faster than each other side, the nearest first; also where that is less than 1."""
    ratios = {side: case.time_ratio(side) for side in case.ratios}
    known = sorted((ratio, side) for side, ratio in ratios.items() if ratio is not None)
    if not known:
        return ""
    return ", " + ", ".join(f"{ratio:.2f} times as fast as {side}" for ratio, side in known)
