"""A record of counts: one file, a row for each launch, added to by every run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from bench.suite import record

FOLDER = record.RESULTS / "emulated"


class Store:
    """Rows of a record by their key; written after each.

    Attributes:
        path: of the file.
        rows: key -> row, in the order of their entry.
    """

    def __init__(self, path: Path, part: str, key: tuple[str, ...], **extra: Any) -> None:
        """
        Args:
            part: of the record; a file of another part is not read.
            key: fields of a row that name it.
            extra: what the record says besides.
        """
        self.path = path
        self._part, self._key, self._extra = part, key, extra
        self._commit = record.output_of("git", "rev-parse", "--short", "HEAD")
        self.rows = {self.key_of(row): row for row in read_rows(path, part)}

    def key_of(self, row: dict[str, Any]) -> tuple[Any, ...]:
        """Its name."""
        return tuple(row[name] for name in self._key)

    def has(self, code: str | None = None, **key: Any) -> bool:
        """Whether there is such a row, of this code if it is given."""
        row = self.rows.get(tuple(key[name] for name in self._key))
        return row is not None and code in (None, row.get("code"))

    def enter(self, *rows: dict[str, Any]) -> None:
        """Replace rows of the same keys, and write."""
        self.rows |= {self.key_of(row): row | {"commit": self._commit} for row in rows}
        self.write()

    def write(self) -> None:
        """All rows, and the facts about this machine."""
        facts = record.machine(torch.device("cpu"))
        facts["emulated"] = sorted({row["capability"] for row in self.rows.values()})
        rows = [self.rows[key] for key in sorted(self.rows, key=str)]
        record.write(record.new_record(self._part, facts, [], rows=rows, **self._extra), self.path)


def read_rows(path: Path, part: str) -> list[dict[str, Any]]:
    """Rows of a record; none where there is no file, or one of another part."""
    if not path.exists():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["extra"]["rows"] if content["part"] == part else []
