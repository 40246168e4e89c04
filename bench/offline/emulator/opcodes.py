"""The table of instructions: PTX opcode, modifiers and operands -> operation of the machine."""

from __future__ import annotations

import re
from functools import lru_cache

from bench.offline.emulator.opcodes_data import comparison_rows, conversion_rows, move_rows
from bench.offline.emulator.opcodes_integer import bit_rows, integer_rows
from bench.offline.emulator.opcodes_memory import (
    control_rows,
    matrix_rows,
    memory_rows,
    together_rows,
)
from bench.offline.emulator.opcodes_real import approximate_rows, real_rows
from bench.offline.emulator.rows import Row

_FAMILIES = (
    integer_rows,
    bit_rows,
    real_rows,
    approximate_rows,
    comparison_rows,
    conversion_rows,
    move_rows,
    memory_rows,
    together_rows,
    matrix_rows,
    control_rows,
)


@lru_cache(maxsize=1)
def table() -> dict[str, list[tuple[re.Pattern[str], Row]]]:
    """Opcode -> its rows, with their patterns."""
    rows: dict[str, list[tuple[re.Pattern[str], Row]]] = {}
    for family in _FAMILIES:
        for row in family():
            rows.setdefault(row.opcode, []).append((row.pattern(), row))
    return rows
