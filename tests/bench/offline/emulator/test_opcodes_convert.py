"""Conversions against exact fractions and Python's integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import pytest

from tests.bench.offline.emulator import formats
from tests.bench.offline.emulator.formats import BF16, F16, F32, FORMATS, TF32, Format
from tests.bench.offline.emulator.lanes import Case, check, integers

REALS = ("f16", "bf16", "f32", "f64")
INTEGERS = tuple(f"{t}{w}" for w in (8, 16, 32, 64) for t in "us")
INTEGRAL = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


def width(name: str) -> int:
    return int(name.lstrip("usbtf"))


def register(bits: int) -> int:
    """Bits of the narrowest register that holds a type."""
    return max(bits, 16)


def limits(name: str) -> tuple[int, int]:
    w = width(name)
    return (-(1 << (w - 1)), (1 << (w - 1)) - 1) if name[0] == "s" else (0, (1 << w) - 1)


def integer(name: str, bits: int) -> int:
    w = width(name)
    bits &= (1 << w) - 1
    return bits - (1 << w) if name[0] == "s" and bits >> (w - 1) else bits


def between_integers() -> list[Case]:
    cases = []
    for to, source, sat in product(INTEGERS, INTEGERS, ("", ".sat")):
        w, out = register(width(source)), register(width(to))

        def expected(a: int, to=to, source=source, sat=sat, out=out) -> int:
            x = integer(source, a)
            if sat:
                x = max(limits(to)[0], min(limits(to)[1], x))
            return integer(to, x) & (1 << out) - 1

        cases.append(Case(f"cvt{sat}.{to}.{source}", (out,), (w,), expected, integers(w)))
    for to, source in (("u32", "u8"), ("s32", "s8"), ("s64", "s16"), ("u64", "u8")):
        # registers wider than the types, on both sides
        expected = lambda a, to=to, source=source: integer(source, a) & (1 << width(to)) - 1  # noqa: E731
        cases.append(Case(f"cvt.{to}.{source}", (width(to),), (32,), expected, integers(32)))
    return cases


def to_integers() -> list[Case]:
    """Out of range: the nearest; NaN: 0, or the top bit where a type has 64 bits."""
    cases = []
    for source, to, mode in product(REALS, INTEGERS, INTEGRAL):
        f, w = FORMATS[source], width(to)
        out = register(w)
        numbers = [2.5, -2.5, 0.5, -0.5, 1.5, 3.5, 1e3 + 0.5, 127.5, 128, 255.4, 2.0**15, 2.0**31,
                   -(2.0**31), 2.0**32, 2.0**63, -(2.0**63), 2.0**64, -1.0, -0.75]  # fmt: skip
        inputs = formats.operands(f, 1)
        inputs = [inputs[0] + [f.bits(f.rounded(Fraction(x))) for x in numbers]]
        for ftz in ("", ".ftz") if source == "f32" else ("",):

            def expected(a: int, f=f, to=to, mode=mode, ftz=ftz, w=w, out=out) -> int:
                x = f.flushed(f.value(a)) if ftz else f.value(a)
                low, high = limits(to)
                if math.isnan(x):
                    y = 1 << (w - 1) if w == 64 or f.name == "f64" else 0
                elif math.isinf(x):
                    y = high if x > 0 else low
                else:
                    y = max(low, min(high, INTEGRAL[mode](Fraction(x))))
                return integer(to, y) & (1 << out) - 1

            head = f"cvt.{mode}{ftz}.{to}.{source}"
            cases.append(Case(head, (out,), (f.width,), expected, inputs))
    for case in [c for c in cases if c.head.startswith(("cvt.rzi.u", "cvt.rzi.s", "cvt.rni.s"))]:
        head = case.head.replace("i.", "i.sat.")
        cases.append(Case(head, case.results, case.operands, case.expected, case.inputs))
    return cases


def from_integers() -> list[Case]:
    cases = []
    for source, to, mode in product(INTEGERS, REALS, ("rn", "rz", "rm", "rp")):
        f, w = FORMATS[to], register(width(source))
        inputs = integers(w)
        if w == 64:
            near = [(1 << k) + d for k in (24, 53, 62) for d in (-3, -1, 1, 3)]
            near += [(1 << 53) + (1 << 29), (1 << 53) + (1 << 29) + 1, (3 << 52) + 1]
            inputs = [inputs[0] + near]

        def expected(a: int, f=f, source=source, mode=mode) -> int:
            return f.bits(f.rounded(Fraction(integer(source, a)), mode))

        cases.append(Case(f"cvt.{mode}.{to}.{source}", (f.width,), (w,), expected, inputs))
    for source, to in product(INTEGERS, REALS):
        f, w = FORMATS[to], register(width(source))

        def clamped(a: int, f=f, source=source) -> int:
            return f.bits(float(max(0, min(1, integer(source, a)))))

        cases.append(Case(f"cvt.rn.sat.{to}.{source}", (f.width,), (w,), clamped, integers(w)))
    return cases


def convert(
    to: Format, source: Format, mode: str, ftz: bool, sat: bool, relu: bool, finite: bool
) -> Callable[[int], int]:
    def expected(a: int) -> int:
        x = source.value(a)
        if ftz and source is F32:
            x = source.flushed(x)
        if sat:
            x = min(x, 1.0) if x > 0 else 0.0
        if math.isnan(x):
            return to.nan
        if relu and not x > 0:
            x = 0.0
        if math.isfinite(x):
            x = to.rounded(Fraction(x), mode, x)
        if finite and math.isinf(x):
            x = math.copysign(to.greatest, x)
        if ftz and to is F32:
            x = to.flushed(x)
        return to.bits(x)

    return expected


def between_reals() -> list[Case]:
    cases = []
    rank = {"f16": 0, "bf16": 0, "f32": 1, "f64": 2}
    for source, to in product(REALS, REALS):
        f, t = FORMATS[source], FORMATS[to]
        inputs = formats.operands(f, 1)
        is_narrower = rank[to] < rank[source] or (rank[to] == rank[source] and to != source)
        modes = ("rn", "rz", "rm", "rp") if is_narrower else ("",)
        for mode, ftz, sat in product(modes, ("", ".ftz"), ("", ".sat")):
            if ftz and "f32" not in (source, to):
                continue
            if "f64" in (source, to) and ftz:
                continue
            head = f"cvt{'.' * bool(mode)}{mode}{ftz}{sat}.{to}.{source}"
            expected = convert(t, f, mode or "rn", bool(ftz), bool(sat), False, False)
            case = Case(head, (t.width,), (f.width,), expected, inputs, any_nan=to == "f64")
            cases.append(case)
        if to == source:
            for mode, (name, ftz, sat) in product(
                INTEGRAL, (("", "", ""), (".ftz", "x", ""), (".sat", "", "x"))
            ):
                if ftz and source != "f32":
                    continue

                def expected(a: int, f=f, mode=mode, ftz=ftz, sat=sat) -> int:
                    x = f.flushed(f.value(a)) if ftz else f.value(a)
                    if math.isfinite(x):
                        x = math.copysign(float(INTEGRAL[mode](Fraction(x))), x)
                    if sat:
                        x = min(x, 1.0) if x > 0 else 0.0
                    return f.bits(x)

                head = f"cvt.{mode}{name}.{to}.{source}"
                case = Case(head, (f.width,), (f.width,), expected, inputs, any_nan=to == "f64")
                cases.append(case)
    return cases


def to_short_reals() -> list[Case]:
    """From float32 with .relu and .satfinite, to one number or two."""
    cases = []
    one, two = formats.operands(F32, 1), formats.operands(F32, 2)
    for to, mode, relu, finite in product(
        (F16, BF16, TF32), ("rn", "rz", "rna"), ("", ".relu"), ("", ".satfinite")
    ):
        if mode == "rna" and to is not TF32:
            continue
        expected = convert(to, F32, mode, False, False, bool(relu), bool(finite))
        head = f"cvt.{mode}{relu}{finite}.{to.name}"
        cases.append(Case(f"{head}.f32", (to.width,), (32,), expected, one))
        if to is not TF32:
            both = lambda a, b, e=expected: e(a) << 16 | e(b)  # noqa: E731
            cases.append(Case(f"{head}x2.f32", (32,), (32, 32), both, two))
    return cases


CASES = [
    *between_integers(),
    *to_integers(),
    *from_integers(),
    *between_reals(),
    *to_short_reals(),
]
HEADS = {case.head for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conversion(case):
    check(case)
