"""Operands: words of the table, numbers, vectors, and where variables and constants lie."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from bench.offline.emulator.ptx import Parameter, Variable

_LANES = 32


class Reject(Exception):
    """An operand does not fit a row."""


@dataclass
class Layout:
    """Where variables lie.

    Attributes:
        addresses: name -> (space, offset within that space's memory).
        shared_bytes: of a block, without what the launch adds.
        data: of global and constant variables, one after another.
    """

    addresses: dict[str, tuple[str, int]] = field(default_factory=dict)
    shared_bytes: int = 0
    local_bytes: int = 0
    data: bytearray = field(default_factory=bytearray)


def place_variables(variables: dict[str, Variable]) -> Layout:
    """Variables one after another in their spaces; the shared array without a size comes last."""
    layout = Layout()
    for variable in sorted(variables.values(), key=lambda v: v.size == 0):
        align = variable.align
        if variable.space == "shared":
            at = -(-layout.shared_bytes // align) * align
            layout.shared_bytes = at + variable.size
            layout.addresses[variable.name] = ("shared", at)
        elif variable.space == "local":
            at = -(-layout.local_bytes // align) * align
            layout.local_bytes = at + variable.size
            layout.addresses[variable.name] = ("local", at)
        else:
            layout.data += b"\0" * (-len(layout.data) % align)
            layout.addresses[variable.name] = ("global", len(layout.data))
            layout.data += variable.data.ljust(variable.size, b"\0")
    return layout


def fill_constant(pool: np.ndarray, place: int, bits: int, value: int) -> None:
    """Write a value for all lanes into a pool [slots, 256] of bytes."""
    slot = pool[place // 256]
    if bits == 1:
        slot[:4] = 255 if value & 1 else 0
    else:
        value &= (1 << bits) - 1
        slot[: bits * 4] = np.frombuffer(value.to_bytes(bits // 8, "little") * _LANES, np.uint8)


@lru_cache(maxsize=256)
def parse_word(word: str) -> tuple[int, str, int, bool, bool]:
    """Count, kind, bits, whether wider is allowed, whether a predicate may follow."""
    match = re.fullmatch(r"(\d*)([ds])(\d+|p)(\+?)(\|p)?", word)
    count, kind, bits, wide, pair = match.groups()
    return int(count or 0), kind, 1 if bits == "p" else int(bits), bool(wide), bool(pair)


def vector_parts(text: str, count: int) -> list[str]:
    """Elements of a vector in braces."""
    if not text.startswith("{"):
        raise Reject(f"{text} is not a vector of {count}")
    parts = [p.strip() for p in text.strip("{} ").split(",")]
    if len(parts) != count:
        raise Reject(f"{text} has {len(parts)} elements, {count} expected")
    return parts


def single_part(text: str) -> str:
    """A single operand, which may stand in braces."""
    if not text.startswith("{"):
        return text
    parts = [p.strip() for p in text.strip("{} ").split(",")]
    if len(parts) != 1:
        raise Reject(f"{text} is a vector")
    return parts[0]


@lru_cache(maxsize=4096)
def literal_bits(text: str, bits: int) -> int | None:
    """The bits of a number, or None if the text is none."""
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
        value = int(text[2:], 16)
        if bits == 64:
            single = struct.unpack("<f", struct.pack("<I", value))[0]
            return struct.unpack("<Q", struct.pack("<d", single))[0]
        return value
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
        value = int(text[2:], 16)
        if bits == 32:
            double = struct.unpack("<d", struct.pack("<Q", value))[0]
            return struct.unpack("<I", struct.pack("<f", double))[0]
        return value
    if re.fullmatch(r"-?\d+\.\d*(?:[eE][+-]?\d+)?", text):
        form = {32: "<f", 64: "<d", 16: "<e"}[bits]
        return int.from_bytes(struct.pack(form, float(text)), "little")
    match = re.fullmatch(r"(-?)\s*(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|\d+)U?", text)
    if match is None:
        return None
    sign, digits = match.groups()
    is_octal = len(digits) > 1 and digits[0] == "0" and digits[1] not in "xXbB"
    value = int(digits, 8 if is_octal else 0)
    return -value if sign else value


def parameter_of(parameters: dict[str, Parameter], text: str) -> tuple[Parameter, int]:
    """`[name+offset]` -> the parameter and the offset within it."""
    match = re.fullmatch(r"\[\s*([\w$.]+)\s*(?:\+\s*(\d+))?\s*\]", text)
    if match is None or match.group(1) not in parameters:
        raise Reject(f"there is no parameter {text}")
    return parameters[match.group(1)], int(match.group(2) or 0)
