"""Floating point by exact fractions: the expected values of the tests of instructions.

A number is a Python float (which holds every float16, bfloat16, tf32, float32 and float64 exactly,
signed zeros, infinities and NaN included); exact results are fractions, rounded once.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class Format:
    """A binary format: bits of the significand, exponents of normal numbers, layout."""

    name: str
    precision: int
    smallest: int
    largest: int
    width: int
    nan: int

    @property
    def greatest(self) -> float:
        """The largest finite number."""
        return float((2 - Fraction(2) ** (1 - self.precision)) * Fraction(2) ** self.largest)

    def value(self, bits: int) -> float:
        """The number that bits stand for."""
        if self.name == "f64":
            return struct.unpack("<d", struct.pack("<Q", bits))[0]
        if self.name == "f16":
            return float(np.array(bits, np.uint16).view(np.float16))
        if self.name == "bf16":
            bits <<= 16
        return struct.unpack("<f", struct.pack("<I", bits))[0]

    def bits(self, x: float) -> int:
        """Bits of a number that the format holds exactly."""
        if math.isnan(x):
            return self.nan
        if self.name == "f64":
            return struct.unpack("<Q", struct.pack("<d", x))[0]
        if self.name == "f16":
            return int(np.float16(x).view(np.uint16))
        single = struct.unpack("<I", struct.pack("<f", x))[0]
        return single >> 16 if self.name == "bf16" else single

    def rounded(self, exact: Fraction, mode: str = "rn", zero: float = 0.0) -> float:
        """A fraction in this format; `zero` is what an exact zero becomes."""
        if exact == 0:
            return zero
        size, sign = abs(exact), -1 if exact < 0 else 1
        exponent = size.numerator.bit_length() - size.denominator.bit_length()
        if Fraction(2) ** exponent > size:
            exponent -= 1
        step = Fraction(2) ** (max(exponent, self.smallest) - self.precision + 1)
        whole, rest = divmod(size, step)
        up = {
            "rn": 2 * rest > step or (2 * rest == step and whole & 1),
            "rna": 2 * rest >= step,
            "rz": False,
            "rm": sign < 0 and rest > 0,
            "rp": sign > 0 and rest > 0,
        }[mode]
        result = (whole + bool(up)) * step
        if result > Fraction(self.greatest):
            turns_back = mode == "rz" or (mode == "rm" and sign > 0) or (mode == "rp" and sign < 0)
            return math.copysign(self.greatest if turns_back else math.inf, sign)
        return math.copysign(float(result), sign)

    def flushed(self, x: float) -> float:
        """Subnormal numbers become zeros of their sign."""
        return math.copysign(0.0, x) if abs(x) < 2.0**self.smallest else x


F16 = Format("f16", 11, -14, 15, 16, 0x7FFF)
BF16 = Format("bf16", 8, -126, 127, 16, 0x7FFF)
F32 = Format("f32", 24, -126, 127, 32, 0x7FFFFFFF)
TF32 = Format("tf32", 11, -126, 127, 32, 0x7FFFFFFF)
F64 = Format("f64", 53, -1022, 1023, 64, 0x7FF8 << 48)
FORMATS = {f.name: f for f in (F16, BF16, F32, TF32, F64)}


def add(f: Format, a: float, b: float, mode: str = "rn") -> float:
    """a + b."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a + b
    if a == b == 0 and math.copysign(1, a) == math.copysign(1, b):
        return a
    zero = -0.0 if mode == "rm" else 0.0
    return f.rounded(Fraction(a) + Fraction(b), mode, zero)


def mul(f: Format, a: float, b: float, mode: str = "rn") -> float:
    """a * b."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b
    sign = math.copysign(1, a) * math.copysign(1, b)
    return f.rounded(Fraction(a) * Fraction(b), mode, math.copysign(0.0, sign))


def fma(f: Format, a: float, b: float, c: float, mode: str = "rn") -> float:
    """a * b + c, rounded once."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b + c
    if not math.isfinite(c):
        return c
    product = math.copysign(1, a) * math.copysign(1, b)
    zero = -0.0 if mode == "rm" else 0.0
    if (a == 0 or b == 0) and c == 0 and math.copysign(1, c) == product:
        zero = c
    return f.rounded(Fraction(a) * Fraction(b) + Fraction(c), mode, zero)


def div(f: Format, a: float, b: float, mode: str = "rn") -> float:
    """a / b."""
    if math.isnan(a) or math.isnan(b) or (a == 0 and b == 0) or (math.isinf(a) and math.isinf(b)):
        return math.nan
    sign = math.copysign(1, a) * math.copysign(1, b)
    if math.isinf(a) or b == 0:
        return math.copysign(math.inf, sign)
    if math.isinf(b) or a == 0:
        return math.copysign(0.0, sign)
    return f.rounded(Fraction(a) / Fraction(b), mode)


def sqrt(f: Format, a: float, mode: str = "rn") -> float:
    """The square root."""
    if math.isnan(a) or a < 0:
        return math.nan
    if a == 0 or math.isinf(a):
        return a
    # enough digits that no rounding can tell the difference, and a mark that something follows
    exact, scale = Fraction(a), 1 << 1200
    root = math.isqrt(exact.numerator * scale * scale // exact.denominator)
    fraction = Fraction(root, scale)
    if fraction * fraction != exact:
        fraction += Fraction(1, scale * 4)
    return f.rounded(fraction, mode)


def specials(f: Format) -> list[float]:
    """Numbers at the edges of a format."""
    one_ulp = 2.0 ** (1 - f.precision)
    tiny, least = 2.0**f.smallest, 2.0 ** (f.smallest - f.precision + 1)
    positive = [0.0, 1.0, 1.0 + one_ulp, 1.5, 3.0, tiny, tiny - least, least, f.greatest, math.inf]
    positive = [f.rounded(Fraction(x)) if math.isfinite(x) else x for x in positive]
    return [*positive, *(-x for x in positive), math.nan]


def operands(f: Format, count: int, seed: int = 0) -> list[list[int]]:
    """Bits of operands: edges in combination, numbers near one another, and random bits."""
    generator = np.random.default_rng(seed)
    edges = [f.bits(x) for x in specials(f)]
    rows: list[list[int]] = []
    for k, a in enumerate(edges):
        if count == 1:
            rows.append([a])
            continue
        for n, b in enumerate(edges):
            rest = [edges[(k * 7 + n * 3 + j) % len(edges)] for j in range(count - 2)]
            rows.append([a, b, *rest])
    for _ in range(100):
        rows.append(
            [int.from_bytes(generator.bytes(8), "little") % (1 << f.width) for _ in range(count)]
        )
    for _ in range(100):
        values = generator.standard_normal(count) * 2.0 ** generator.integers(-3, 4, count)
        rows.append([f.bits(f.rounded(Fraction(float(v)))) for v in values])
    if f.name == "tf32":
        rows = [[x & ~0x1FFF for x in row] for row in rows]
    return [list(column) for column in zip(*rows, strict=True)]
