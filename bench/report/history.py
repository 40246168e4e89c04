"""Records as the report reads them: checked, in order, and asked by device and case."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.suite.record import RESULTS, SCHEMA

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run. `cases` maps names to rows; `place` is the file below the results folder."""

    place: str
    part: str
    date: str
    machine: dict[str, Any]
    extra: dict[str, Any]
    cases: dict[str, Row]

    @property
    def device(self) -> str:
        return self.machine["device"]

    @property
    def kind(self) -> str:
        return self.machine["kind"]

    @property
    def commit(self) -> str:
        commit = (self.machine.get("commit") or "unknown")[:7]
        return f"{commit}+" if self.machine.get("uncommitted_changes") else commit


@dataclass(frozen=True, kw_only=True)
class Newest:
    """A case in the newest record that has it.

    Attributes:
        ratios: side -> {"time", "time_by_round", "memory"} from the newest record with that side.
        older: sides whose ratio comes from an earlier record than `record`.
    """

    record: Record
    row: Row
    ratios: dict[str, dict[str, float | None]]
    older: frozenset[str]

    @property
    def ours(self) -> Row:
        return self.row["sides"]["ours"]

    def time_ratio(self, side: str) -> float | None:
        """side / ours; on a CPU round by round where both sides took turns."""
        found = self.ratios.get(side)
        if found is None:
            return None
        by_round = found.get("time_by_round") if self.record.kind == "cpu" else None
        return found["time"] if by_round is None else by_round

    def memory_ratio(self, side: str) -> float | None:
        return self.ratios.get(side, {}).get("memory")


@dataclass(frozen=True)
class Records:
    """All records, oldest first.

    Attributes:
        left_out: files of the time before the schema, which nobody can compare with.
    """

    records: list[Record] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def devices(self) -> list[str]:
        """GPUs, then CPUs, by name."""
        kinds = {r.device: r.kind for r in self.records}
        return sorted(kinds, key=lambda name: (kinds[name] == "cpu", name))

    def of(self, device: str) -> list[Record]:
        return [r for r in self.records if r.device == device]

    def newest(self, device: str) -> dict[str, Newest]:
        """name -> the case in its newest record, in the order of the records."""
        found: dict[str, Newest] = {}
        for record in self.of(device):
            for name, row in record.cases.items():
                earlier = found[name].ratios if name in found else {}
                found[name] = Newest(
                    record=record,
                    row=row,
                    ratios=earlier | row["ratios"],
                    older=frozenset(earlier) - frozenset(row["ratios"]),
                )
        return found

    def pairs(self, device: str) -> Iterator[tuple[Record, Record, str]]:
        """(old record, new record, case): the last two records of a part that have the case."""
        last: dict[tuple[str, str], list[Record]] = {}
        for record in self.of(device):
            for name in record.cases:
                last.setdefault((record.part, name), []).append(record)
        for (_, name), having in last.items():
            if len(having) > 1:
                yield having[-2], having[-1], name


def load(results: Path = RESULTS) -> Records:
    """Read every record below a folder.

    Raises: ValueError: a file is damaged or of another schema; the message names it.
    """
    records, left_out = [], []
    for path in sorted(results.glob("*/*.json")):
        place = path.relative_to(results).as_posix()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict) and str(content.get("part")).startswith("emulated"):
                continue  # counts of emulated launches, which no time belongs to
            if isinstance(content, dict) and content and "schema" not in content:
                left_out.append(place)
                continue
            records.append(_record(content, place))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not a benchmark record of schema {SCHEMA} ({error!r}); remove it or "
                "measure again"
            ) from None
    return Records(sorted(records, key=lambda r: (r.date, r.place)), left_out)


def _record(content: dict[str, Any], place: str) -> Record:
    if content["schema"] != SCHEMA:
        raise KeyError(f"schema {content['schema']}")
    content["machine"]["device"], content["machine"]["kind"]
    for row in content["cases"]:
        for key in ("op", "group", "shapes", "dtype", "direction", "baseline", "ratios"):
            row[key]
        row["sides"]["ours"]
        for side in row["sides"].values():
            side["peak_bytes"]
            for key in ("median", "p20", "p80", "samples"):
                side["seconds"][key]
    return Record(
        place=place,
        part=content["part"],
        date=content["date"],
        machine=content["machine"],
        extra=content["extra"],
        cases={row["name"]: row for row in content["cases"]},
    )
