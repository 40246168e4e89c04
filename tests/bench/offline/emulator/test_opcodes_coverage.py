"""Every row of the table of instructions, with every modifier, is in a test of instructions."""

from __future__ import annotations

import pytest

from bench.offline.emulator.forms import canonical_head
from bench.offline.emulator.library import operations
from bench.offline.emulator.opcodes import table
from bench.offline.emulator.rows import JOINS
from tests.bench.offline.emulator import (
    test_opcodes_approximate,
    test_opcodes_convert,
    test_opcodes_data,
    test_opcodes_integer,
    test_opcodes_memory,
    test_opcodes_real,
    test_opcodes_warp,
)

MODULES = (
    test_opcodes_approximate,
    test_opcodes_convert,
    test_opcodes_data,
    test_opcodes_integer,
    test_opcodes_memory,
    test_opcodes_real,
    test_opcodes_warp,
)
HEADS = {canonical_head(head) for module in MODULES for head in module.HEADS}


def relatives(opcode: str, head: str) -> set[str]:
    """Tested heads whose modifiers run the same code as this one's: all types of a memory
    instruction, all results of a `set`."""
    if opcode in ("ld", "st"):
        return {h for h in HEADS if h.split(".")[0] == opcode}
    if opcode in ("atom", "red"):
        return {h for h in HEADS if h.split(".")[0] in ("atom", "red")}
    if opcode == "set":
        return {
            h for h in HEADS if h.startswith("set.") and h.split(".")[-1] == head.split(".")[-1]
        }
    return set()


@pytest.mark.parametrize("opcode", sorted(table()))
def test_every_modifier_of_every_row_is_tested(opcode):
    heads = {h for h in HEADS if h.split(".")[0] == opcode}
    joins = {m for h in heads for m in h.split(".")[1:] if m in JOINS}
    for pattern, row in table()[opcode]:
        tested = {h for h in heads if pattern.fullmatch(h)}
        assert tested, f"no test of {row.template}"
        tested |= relatives(opcode, min(tested))
        used = {m for h in tested for m in h.split(".")[1:]}
        if opcode in ("set", "setp"):
            used |= joins  # they work on the predicate, whatever was compared
        missing = row.modifiers() - used
        assert not missing, f"{row.template}: no test with {sorted(missing)}"


def test_every_operation_of_the_machine_is_in_the_table():
    rows = [row for all_rows in table().values() for _, row in all_rows]
    used = {row.operation for row in rows}
    for row in rows:
        for head in (h for h in HEADS if row.choose and h.split(".")[0] == row.opcode):
            used.add(row.choose(head.split(".")[1:]).get("fast_operation", ""))
    assert set(operations()) <= used
    assert {row.operation for row in rows} <= set(operations())
