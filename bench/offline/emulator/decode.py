"""Statements -> rows of numbers that the machine runs.

Every statement has to match a row of the table of instructions in opcode, modifiers and operands;
one that does not stops the decoding with a sentence that names what is not known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.offline.emulator.forms import (
    COLUMN,
    FIRST_DESTINATION,
    FIRST_SOURCE,
    MAX_DESTINATIONS,
    MAX_SOURCES,
    Form,
    forms_of,
)
from bench.offline.emulator.operands import (
    Layout,
    Reject,
    fill_constant,
    literal_bits,
    parameter_of,
    parse_word,
    place_variables,
    single_part,
    vector_parts,
)
from bench.offline.emulator.ptx import Kernel, PtxError, Statement
from bench.offline.emulator.rows import FLAGS

_LANES = 32

SPECIALS = (
    "tid.x", "tid.y", "tid.z", "ntid.x", "ntid.y", "ntid.z", "ctaid.x", "ctaid.y", "ctaid.z",
    "nctaid.x", "nctaid.y", "nctaid.z", "laneid", "warpid", "nwarpid", "lanemask_eq",
    "lanemask_lt", "lanemask_le", "lanemask_gt", "lanemask_ge", "smid", "total_smem_size",
)  # fmt: skip
_SPECIAL = {f"%{name}": number for number, name in enumerate(SPECIALS)}
_CLOCKS = ("%clock", "%clock64", "%globaltimer", "%globaltimer_lo")

_WORDS = {
    "A": "_address",
    "L": "_label",
    "P": "_parameter",
    "table": "_table",
    "hint": "_hint",
    "clock": "_clock",
}


class DecodeError(PtxError):
    """An instruction that is not emulated: which, where, and what of it."""


@dataclass(frozen=True)
class ParameterSlot:
    """A constant that is a part of the parameters: place in the pool, bits there, bytes read."""

    place: int
    bits: int
    offset: int
    size: int
    is_signed: bool


@dataclass
class Code:
    """What the machine needs.

    Attributes:
        rows: [instructions, ROW_LENGTH].
        constants: pool of 256 bytes a constant.
        specials: [n, 3]: register id, place, kind.
        global_slots: places of constants that are addresses of global variables, with offsets.
    """

    rows: np.ndarray
    constants: np.ndarray
    parameter_slots: list[ParameterSlot]
    specials: np.ndarray
    num_registers: int
    register_bytes: int
    layout: Layout
    global_slots: list[tuple[int, int, int]]


def decode(kernel: Kernel, operations: dict[str, int]) -> Code:
    """Rows of a kernel.

    Args:
        operations: name -> number in the machine.

    Raises: DecodeError.
    """
    return _Decoder(kernel, operations).run()


class _Decoder:
    def __init__(self, kernel: Kernel, operations: dict[str, int]) -> None:
        self.kernel = kernel
        self.operations = operations
        self.layout = place_variables(kernel.variables)
        self.parameters = {p.name: p for p in kernel.parameters}
        # id 0 is what constants are known by, id 1 a register that nobody reads
        self.places: dict[str, tuple[int, int, int]] = {}
        self.register_bytes = 256
        self.num_registers = 2
        self.constants: dict[tuple[int, int], int] = {(64, 0): 1}
        self.parameter_slots: dict[tuple[int, int, int, bool], ParameterSlot] = {}
        self.global_slots: dict[tuple[int, int], int] = {}
        self.num_slots = 1
        self.specials: list[tuple[int, int, int]] = []

    def run(self) -> Code:
        statements = self.kernel.statements
        end = Statement(statements[-1].line if statements else 0, "ret", "", False, "ret", (), "")
        rows = [self._row(s) for s in (*statements, end)]
        return Code(
            rows=np.array(rows, dtype=np.int64),
            constants=self._pool(),
            parameter_slots=list(self.parameter_slots.values()),
            specials=np.array(self.specials, dtype=np.int32).reshape(-1, 3),
            num_registers=self.num_registers,
            register_bytes=self.register_bytes,
            layout=self.layout,
            global_slots=[(p, b, o) for (o, b), p in self.global_slots.items()],
        )

    def _row(self, statement: Statement) -> list[int]:
        try:
            forms = forms_of(statement.head)
        except Reject as error:
            raise self._error(statement, str(error)) from None
        reason = ""
        for form in forms:
            try:
                return self._fill(statement, form)
            except Reject as error:
                reason = reason or str(error)
        raise self._error(statement, reason)

    @staticmethod
    def _error(statement: Statement, reason: str) -> DecodeError:
        return DecodeError(f"PTX line {statement.line}: {statement.text!r}: {reason}")

    def _fill(self, statement: Statement, form: Form) -> list[int]:
        draft = _Draft(dict(form.columns))
        operands = statement.operands
        given = len(operands)
        if given > len(form.words):
            raise Reject(f"operand {operands[len(form.words)]} is one too many")
        for k, (word, is_optional) in enumerate(form.words):
            if k < given:
                self._operand(draft, word, operands[k])
            elif not is_optional:
                raise Reject(f"{given} operands, {len(form.words)} expected")
        return self._numbers(statement, form, draft)

    def _operand(self, draft: _Draft, word: str, text: str) -> None:
        if word in _WORDS:
            getattr(self, _WORDS[word])(draft, text)
            return
        if word in ("D", "S"):
            bits = 8 * draft.columns["size"]
            count = draft.columns["vector"] if draft.columns["vector"] > 1 else 0
            parts = vector_parts(text, count) if count else [single_part(text)]
            kind, is_wide = word.lower(), True
        else:
            count, kind, bits, is_wide, has_pair = parse_word(word)
            if has_pair:
                text, _, pair = text.partition("|")
                parts = [text.strip()]
                self._destination(draft, parts[0], bits, False)
                if pair:
                    self._destination(draft, pair.strip(), 1, False)
                return
            parts = vector_parts(text, count) if count else [single_part(text)]
        for part in parts:
            if kind == "d":
                self._destination(draft, part, bits, is_wide)
            else:
                is_strict = word == "S"
                self._source(draft, part, bits, is_wide, is_strict)

    def _destination(self, draft: _Draft, name: str, bits: int, is_wide: bool) -> None:
        if name == "_":
            draft.destinations.append((0, 1, max(bits, 16) if bits > 1 else 1))
            return
        width = self.kernel.registers.bits(name)
        if width is None:
            raise Reject(f"{name} is not a register")
        if width != bits and not (is_wide and width > bits):
            raise Reject(f"{name} has {width} bits, {bits} expected")
        place, number, _ = self._register(name, width)
        draft.destinations.append((place, number, width))

    def _source(
        self, draft: _Draft, text: str, bits: int, is_wide: bool, is_strict: bool = False
    ) -> None:
        if bits == 1 and text.startswith("!"):
            draft.negated |= 1 << len(draft.sources)
            text = text[1:].strip()
        if is_strict:
            draft.needs_defined |= 1 << len(draft.sources)
        width = self.kernel.registers.bits(text)
        if width is not None:
            if width != bits and not (is_wide and width > bits):
                raise Reject(f"{text} has {width} bits, {bits} expected")
            draft.sources.append(self._register(text, width))
        elif text in _SPECIAL:
            draft.sources.append(self._special(text, bits))
        else:
            bits = max(bits, 16) if bits > 1 else 1
            draft.sources.append((self._constant(text, bits), 0, bits))

    def _address(self, draft: _Draft, text: str) -> None:
        match = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:([+-])\s*(-?\w+))?\s*\]", text)
        if match is None:
            raise Reject(f"address {text} is not understood")
        base, sign, offset = match.groups()
        number = int(offset, 0) if offset else 0
        draft.columns["offset"] = -number if sign == "-" else number
        draft.needs_defined |= 1 << len(draft.sources)
        width = self.kernel.registers.bits(base)
        if width is None:
            draft.sources.append((self._constant(base, 64), 0, 64))
        elif width in (32, 64):
            draft.sources.append(self._register(base, width))
        else:
            raise Reject(f"an address of {width} bits")

    def _label(self, draft: _Draft, text: str) -> None:
        if text not in self.kernel.labels:
            raise Reject(f"there is no label {text}")
        draft.columns["target"] = self.kernel.labels[text]

    def _table(self, draft: _Draft, text: str) -> None:
        draft.columns["mode"] = int(text, 0)

    def _hint(self, draft: _Draft, text: str) -> None:
        """A cache policy changes no value."""

    def _clock(self, draft: _Draft, text: str) -> None:
        if text not in _CLOCKS:
            raise Reject(f"{text} is not emulated")

    def _parameter(self, draft: _Draft, text: str) -> None:
        """A load from the parameters moves a constant that the launch fills in, one an element."""
        parameter, offset = parameter_of(self.parameters, text)
        size, is_signed = draft.columns["size"], bool(draft.columns["flags"] & FLAGS["signed"])
        if offset + size * draft.columns["vector"] > parameter.size:
            raise Reject(f"{text} reads beyond the parameter")
        for k, (_, _, bits) in enumerate(draft.destinations):
            key = (parameter.offset + offset + k * size, size, bits, is_signed)
            if key not in self.parameter_slots:
                self.parameter_slots[key] = ParameterSlot(
                    self._slot(), bits, key[0], size, is_signed
                )
            draft.sources.append((self.parameter_slots[key].place, 0, bits))

    def _numbers(self, statement: Statement, form: Form, draft: _Draft) -> list[int]:
        columns, line = draft.columns, list(form.line)
        if "carry_in" in columns:
            carry = self._register("%carry", 1)
            none = (self._constant("0", 1), 0, 1)
            draft.sources.append(carry if columns["carry_in"] else none)
            draft.destinations.append(carry if columns["carry_out"] else (0, 1, 1))
        guard = (-1, 0)
        if statement.guard:
            if self.kernel.registers.bits(statement.guard) != 1:
                raise Reject(f"{statement.guard} is not a predicate")
            guard = self._register(statement.guard, 1)[:2]
        operation = form.row.operation
        if "fast_operation" in columns and draft.widths() == form.widths:
            operation = columns["fast_operation"]
        line[COLUMN["operation"]] = self.operations[operation]
        line[COLUMN["line"]] = statement.line
        line[COLUMN["guard"]], line[COLUMN["guard_id"]] = guard
        line[COLUMN["guard_is_negated"]] = int(statement.is_negated)
        line[COLUMN["num_destinations"]] = len(draft.destinations)
        line[COLUMN["num_sources"]] = len(draft.sources)
        line[COLUMN["needs_defined"]] = draft.needs_defined
        line[COLUMN["negated"]] = draft.negated
        for name in ("mode", "target", "offset"):
            line[COLUMN[name]] = columns.get(name, 0)
        if len(draft.destinations) > MAX_DESTINATIONS or len(draft.sources) > MAX_SOURCES:
            raise Reject("too many operands")
        at = FIRST_DESTINATION
        for triple in draft.destinations:
            line[at : at + 3] = triple
            at += 3
        at = FIRST_SOURCE
        for triple in draft.sources:
            line[at : at + 3] = triple
            at += 3
        return line

    def _register(self, name: str, bits: int) -> tuple[int, int, int]:
        known = self.places.get(name)
        if known is None:
            known = (self.register_bytes, self.num_registers, bits)
            self.places[name] = known
            self.register_bytes += max(_LANES * bits // 8, 4) + 63 & ~63
            self.num_registers += 1
        return known

    def _special(self, name: str, bits: int) -> tuple[int, int, int]:
        if bits != 32:
            raise Reject(f"{name} has 32 bits, {bits} expected")
        is_new = name not in self.places
        place = self._register(name, 32)
        if is_new:
            self.specials.append((place[1], place[0], _SPECIAL[name]))
        return place

    def _slot(self) -> int:
        """A new constant's place; odd numbers are places in the pool."""
        self.num_slots += 1
        return 256 * (self.num_slots - 1) + 1

    def _constant(self, text: str, bits: int) -> int:
        value = literal_bits(text, bits)
        if value is None:
            space, offset = self.layout.addresses.get(text, ("", 0))
            if not space:
                raise Reject(f"{text} is neither a register nor a variable nor a number")
            if space == "global":
                key = (offset, bits)
                if key not in self.global_slots:
                    self.global_slots[key] = self._slot()
                return self.global_slots[key]
            value = offset
        key = (bits, value & ((1 << bits) - 1))
        if key not in self.constants:
            self.constants[key] = self._slot()
        return self.constants[key]

    def _pool(self) -> np.ndarray:
        pool = np.zeros((self.num_slots, 256), dtype=np.uint8)
        for (bits, value), place in self.constants.items():
            fill_constant(pool, place, bits, value)
        return pool


@dataclass
class _Draft:
    """An instruction on its way: places of operands as (place, id, bits)."""

    columns: dict[str, Any]
    destinations: list[tuple[int, int, int]] = field(default_factory=list)
    sources: list[tuple[int, int, int]] = field(default_factory=list)
    needs_defined: int = 0
    negated: int = 0

    def widths(self) -> list[int]:
        """Bits of all registers, results first."""
        return [bits for _, _, bits in (*self.destinations, *self.sources)]
