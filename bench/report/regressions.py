"""The regressions of all devices, named, and the rule they were found by."""

from __future__ import annotations

from dataclasses import dataclass

from bench.report import formatting as f
from bench.report.history import Record, Records
from bench.report.regression_rule import Comparison, compare, typical_noise

RULE = """\
A case is named when, between the last two records of its device and part,

1. the new median is more than 5 % above the old one,
2. the new 20 % quantile lies above the old 80 % quantile, and
3. the change exceeds 3.5 standard errors of the two medians, where a case is taken to be at least
   as noisy as the typical case of the two records.

On a GPU this is the time of ours. A CPU shares its machine, and its seconds of two days are not
comparable: there it is our share of the baseline's time, round by round of the same run, so that
both sides of a quotient had the same machine. Peak memory is named when it grew by more than 5 %
and 1 MiB; records that found it in different ways are not compared."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A case of two records of a device."""

    device: str
    case: str
    old: Record
    new: Record
    result: Comparison

    @property
    def is_named(self) -> bool:
        return self.result.is_slower or self.result.is_larger

    def sentence(self) -> str:
        result, found = self.result, []
        if result.is_slower and result.time is not None:
            what = "share of the baseline's time" if self.new.kind == "cpu" else "time"
            found.append(f"{what} {f.percent(result.time - 1)} up")
        if result.is_larger and result.memory is not None:
            found.append(f"peak memory {f.percent(result.memory - 1)} up")
        return f"**{self.case}** on {self.device}: {', '.join(found)}, {_from_to(self)}"


def _from_to(found: Compared) -> str:
    return (
        f"from `{found.old.commit}` ({found.old.date[:10]}) to `{found.new.commit}` "
        f"({found.new.date[:10]})"
    )


def compared(records: Records) -> list[Compared]:
    """Every case that two records of a device and part have."""
    noise = {r.place: typical_noise(r.cases.values(), r.kind) for r in records.records}
    return [
        Compared(
            device=device,
            case=name,
            old=old,
            new=new,
            result=compare(
                old.cases[name], new.cases[name], new.kind, max(noise[old.place], noise[new.place])
            ),
        )
        for device in records.devices()
        for old, new, name in records.pairs(device)
    ]


def section(found: list[Compared]) -> str:
    """The section of the page."""
    named = [x for x in found if x.is_named]
    judged = [x for x in found if x.result.obstacle is None]
    lines = [RULE, ""]
    if not found:
        lines.append("No device has two records of a case yet: nothing can be compared.")
        return "\n".join(lines)
    lines.append(f"{len(judged)} cases were compared; named: {len(named) or 'none'}.")
    if named:
        lines += ["", *(f"- {x.sentence()}" for x in named)]
    unjudged = [x for x in found if x.result.obstacle is not None]
    if unjudged:
        lines += ["", "Times that cannot be compared:", ""]
        lines += [f"- {why}: {', '.join(cases)}" for why, cases in _by_obstacle(unjudged).items()]
    if judged:
        lines += ["", "<details><summary>All comparisons</summary>", "", _table(judged), ""]
        lines.append("</details>")
    return "\n".join(lines)


def _by_obstacle(unjudged: list[Compared]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for x in unjudged:
        found.setdefault(f"on {x.device}, {x.result.obstacle}", []).append(x.case)
    return found


def _table(judged: list[Compared]) -> str:
    rows = []
    for x in sorted(judged, key=lambda x: -(x.result.time or 0)):
        time, memory = x.result.time, x.result.memory
        rows.append(
            [
                x.case,
                x.device,
                f"`{x.old.commit}` → `{x.new.commit}`",
                "–" if time is None else f"{time:.3f}",
                "–" if memory is None else f"{memory:.3f}",
            ]
        )
    columns = ["case", "device", "commits", "time, new / old", "memory, new / old"]
    return f.table(columns, rows, numbers_from=3)
