"""What a row of the table of instructions is.

A row's template says which modifiers an opcode may have: `(.a|.b)` one of these, `[.a|.b]` one or
none. What no row allows is not emulated. Operands are words: `d32` a destination of 32 bits, `s32`
a source (register, number, or address of a variable), `dp` and `sp` predicates, `A` an address,
`P` a place in the parameters, `L` a label; a number in front (`4s32`) means a vector in braces, `+`
that the register may be wider than the type, `?` that it may be missing, `d32|p` that a predicate
may follow. `D` and `S` are the vectors or single registers that `.v2` and the row's type ask for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CLASSES = (
    "integer",
    "float",
    "convert",
    "move",
    "branch",
    "load",
    "store",
    "atomic",
    "shared",
    "local",
    "shuffle",
    "barrier",
    "special",
    "matrix",
    "other",
)
"""Kinds of instructions that counts tell apart."""

FLAGS = {
    "ftz": 1,
    "sat": 2,
    "NaN": 4,
    "relu": 8,
    "xorsign": 16,
    "satfinite": 32,
    "signed": 64,
    "strong": 128,
    "trans": 256,
    "shiftamt": 512,
}
ROUNDINGS = {"rn": 0, "rz": 1, "rm": 2, "rp": 3, "rna": 4, "rni": 0, "rzi": 1, "rmi": 2, "rpi": 3}
COMPARISONS = {
    name: number
    for number, name in enumerate(
        ("eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")
    )
} | {"lo": 2, "ls": 3, "hi": 4, "hs": 5}
JOINS = {"and": 1, "or": 2, "xor": 3}
SPACES = {"global": 0, "shared": 1, "local": 2, "const": 0}
GENERIC = 3


@dataclass(frozen=True)
class Row:
    """One form of an instruction.

    Attributes:
        template, operands: as above.
        operation: the machine's name.
        klass: one of CLASSES.
        fields: columns of the instruction that the row itself sets.
        choose: modifiers -> more columns, or another operation.
    """

    template: str
    operands: str
    operation: str
    klass: str
    fields: dict[str, int] = field(default_factory=dict)
    choose: Callable[[list[str]], dict[str, Any]] | None = None

    @property
    def opcode(self) -> str:
        """The part before the first dot."""
        return re.match(r"\w+", self.template).group(0)

    def pattern(self) -> re.Pattern[str]:
        """What the template matches."""
        text = self.template.replace(".", r"\.").replace("(", "(?:")
        return re.compile(text.replace("[", "(?:").replace("]", ")?"))

    def modifiers(self) -> set[str]:
        """All that the template names."""
        return set(re.findall(r"\.([\w:]+)", self.template))


def bits_of(type_: str) -> int:
    """Of a type, by the digits in its name."""
    number = int(re.search(r"\d+", type_).group(0))
    return 2 * number if type_.endswith("x2") else number


def types_of(*names: str) -> str:
    return "(" + "|".join("." + n for n in names) + ")"


ROUNDED = "[.rn|.rz|.rm|.rp]"
