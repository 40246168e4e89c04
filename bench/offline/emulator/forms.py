"""What an opcode with its modifiers means to the machine: its numbers without the operands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bench.offline.emulator.opcodes import table
from bench.offline.emulator.operands import Reject
from bench.offline.emulator.rows import CLASSES, COMPARISONS, FLAGS, JOINS, ROUNDINGS, Row

MAX_DESTINATIONS, MAX_SOURCES = 8, 10
_HEAD_COLUMNS = (
    "operation", "klass", "line", "guard", "guard_id", "guard_is_negated", "num_destinations",
    "num_sources", "needs_defined", "negated", "flags", "rounding", "comparison", "join", "mode",
    "space", "size", "vector", "target", "offset", "spare",
)  # fmt: skip
COLUMN = {name: number for number, name in enumerate(_HEAD_COLUMNS)}
FIRST_DESTINATION = len(_HEAD_COLUMNS)
FIRST_SOURCE = FIRST_DESTINATION + 3 * MAX_DESTINATIONS
ROW_LENGTH = FIRST_SOURCE + 3 * MAX_SOURCES

_RANK = {
    **dict.fromkeys(("weak", "relaxed", "acquire", "release", "acq_rel", "volatile"), 0),
    **dict.fromkeys(("global", "const", "shared", "shared::cta", "local", "param"), 1),
    **dict.fromkeys(("cta", "cluster", "gpu", "sys"), 2),
    **dict.fromkeys(("ca", "cg", "cs", "lu", "cv", "nc", "wb", "wt"), 3),
    **dict.fromkeys(("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"), 3),
    "noftz": 4,
    "L2::cache_hint": 6,
}
"""Compilers write the modifiers of memory instructions in several orders; the table has one."""


def column(name: str) -> int:
    """Where a row holds something; three numbers an operand from "destinations" and "sources"."""
    operands = {"destinations": FIRST_DESTINATION, "sources": FIRST_SOURCE}
    return operands[name] if name in operands else COLUMN[name]


@dataclass(frozen=True)
class Form:
    """A row of the table for one opcode with its modifiers.

    Attributes:
        words: of the operands, and whether each may be missing.
        widths: bits that they ask for.
        line: the numbers that do not depend on operands.
    """

    row: Row
    columns: dict[str, Any]
    words: tuple[tuple[str, bool], ...]
    widths: list[int]
    line: tuple[int, ...]


@lru_cache(maxsize=4096)
def forms_of(head: str) -> list[Form]:
    """The rows that an opcode with modifiers matches. Raises: Reject."""
    opcode, *modifiers = canonical_head(head).split(".")
    rows = table().get(opcode)
    if rows is None:
        raise Reject(f"the opcode {opcode} is not emulated")
    text = ".".join((opcode, *modifiers))
    forms = [_form(row, modifiers) for pattern, row in rows if pattern.fullmatch(text)]
    if not forms:
        allowed = set().union(*(row.modifiers() for _, row in rows))
        strange = [m for m in modifiers if m not in allowed]
        what = f"modifiers .{'.'.join(modifiers)} together"
        what = f"modifier .{strange[0]}" if strange else what
        raise Reject(f"{opcode} with the {what} is not emulated")
    return forms


def _form(row: Row, modifiers: list[str]) -> Form:
    columns: dict[str, Any] = dict(row.fields)
    if row.choose is not None:
        columns |= row.choose(modifiers)
    flags = columns.get("flags", 0)
    for m in modifiers:
        flags |= FLAGS.get(m, 0)
    numbers = {
        "klass": CLASSES.index(columns.get("klass", row.klass)),
        "flags": flags,
        "rounding": next((ROUNDINGS[m] for m in modifiers if m in ROUNDINGS), 0),
        "vector": columns.get("vector", 1),
    } | {name: columns.get(name, 0) for name in ("join", "space", "size")}
    if row.opcode in ("setp", "set"):
        numbers["comparison"] = COMPARISONS[modifiers[0]]
        numbers["join"] = next((JOINS[m] for m in modifiers[1:] if m in JOINS), 0)
    line = [0] * ROW_LENGTH
    for name, value in numbers.items():
        line[COLUMN[name]] = value
    line[FIRST_SOURCE:] = (1, 0, 64) * MAX_SOURCES  # zeros, where there is no operand
    return Form(
        row=row,
        columns=columns,
        words=tuple((w.rstrip("?"), w.endswith("?")) for w in row.operands.split()),
        widths=[int(w) for w in re.findall(r"[ds](\d+)", row.operands)],
        line=tuple(line),
    )


def canonical_head(head: str) -> str:
    """An opcode with its modifiers in the table's order."""
    opcode, *modifiers = head.split(".")
    if opcode in ("ld", "st", "atom", "red"):
        modifiers.sort(key=_rank)
    return ".".join((opcode, *modifiers))


def _rank(modifier: str) -> int:
    if modifier.startswith("L1::"):
        return 5
    if modifier.startswith("L2::"):
        return _RANK.get(modifier, 7)
    if re.fullmatch(r"v\d", modifier):
        return 8
    return _RANK.get(modifier, 9)
