"""Floating point arithmetic against exact fractions: roundings, NaN, infinities, -0, subnormals."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest

from tests.bench.offline.emulator import formats
from tests.bench.offline.emulator.formats import BF16, F16, F32, F64, Format
from tests.bench.offline.emulator.lanes import Case, check

ROUNDINGS = ("", ".rn", ".rz", ".rm", ".rp")


def sub(f: Format, a: float, b: float, mode: str = "rn") -> float:
    return a - b if math.isnan(b) else formats.add(f, a, -b, mode)


FUNCTIONS: dict[str, tuple[Callable[..., float], int]] = {
    "add": (formats.add, 2),
    "sub": (sub, 2),
    "mul": (formats.mul, 2),
    "fma": (formats.fma, 3),
    "mad": (formats.fma, 3),
    "div": (formats.div, 2),
    "rcp": (lambda f, a, mode="rn": formats.div(f, 1.0, a, mode), 1),
    "sqrt": (formats.sqrt, 1),
}


def on_bits(
    f: Format,
    function: Callable[..., float],
    mode: str = "rn",
    ftz: bool = False,
    sat: bool = False,
    relu: bool = False,
) -> Callable[..., int]:
    """A function of numbers as one of bits, with the modifiers around it."""

    def applied(*bits: int) -> int:
        values = [f.value(b) for b in bits]
        if ftz:
            values = [f.flushed(v) for v in values]
        result = function(f, *values, mode)
        if ftz:
            result = f.flushed(result)
        if sat:
            result = min(result, 1.0) if result > 0 else 0.0
        if relu and not math.isnan(result):
            result = result if result > 0 else 0.0
        return f.bits(result)

    return applied


def in_pairs(f: Format, function: Callable[..., int]) -> Callable[..., int]:
    """Of registers that hold two numbers."""
    w, part = f.width, (1 << f.width) - 1

    def both(*bits: int) -> int:
        low = function(*(b & part for b in bits))
        return function(*(b >> w for b in bits)) << w | low

    return both


def paired(columns: list[list[int]], w: int) -> list[list[int]]:
    """Every third number with another one in the high half."""
    return [
        [c | column[(k + 11) % len(column)] << w for k, c in enumerate(column)][::3]
        for column in columns
    ]


def singles() -> list[Case]:
    cases = []
    for name, (function, count) in FUNCTIONS.items():
        needs_rounding = name in ("div", "rcp", "sqrt")
        inputs = formats.operands(F32, count)
        modes = ROUNDINGS[1:] if needs_rounding else ROUNDINGS
        for mode, ftz, sat in product(modes, ("", ".ftz"), ("", ".sat")):
            if sat and needs_rounding:
                continue
            expected = on_bits(F32, function, mode[1:] or "rn", bool(ftz), bool(sat))
            cases.append(
                Case(f"{name}{mode}{ftz}{sat}.f32", (32,), (32,) * count, expected, inputs)
            )
        inputs = formats.operands(F64, count)
        for mode in modes:
            expected = on_bits(F64, function, mode[1:] or "rn")
            head = f"{name}{mode}.f64"
            cases.append(Case(head, (64,), (64,) * count, expected, inputs, any_nan=True))
    for name in ("add", "sub", "mul", "fma"):
        function, count = FUNCTIONS[name]
        inputs = paired(formats.operands(F32, count), 32)
        for mode, ftz in product(ROUNDINGS, ("", ".ftz")):
            expected = in_pairs(F32, on_bits(F32, function, mode[1:] or "rn", bool(ftz)))
            cases.append(Case(f"{name}{mode}{ftz}.f32x2", (64,), (64,) * count, expected, inputs))
    return cases


def halves() -> list[Case]:
    cases = []
    for name in ("add", "sub", "mul", "fma"):
        function, count = FUNCTIONS[name]
        modes = (".rn",) if name == "fma" else ("", ".rn")
        for f in (F16, BF16):
            inputs = formats.operands(f, count)
            ends = [("", ""), ("", ".sat"), (".ftz", ""), (".ftz", ".sat")]
            ends = ends if f is F16 else [("", "")]
            if name == "fma":
                ends += [("", ".relu")] + [(".ftz", ".relu")] * (f is F16)
            for mode, (ftz, end) in product(modes, ends):
                expected = on_bits(f, function, "rn", bool(ftz), end == ".sat", end == ".relu")
                head = f"{name}{mode}{ftz}{end}.{f.name}"
                cases.append(Case(head, (16,), (16,) * count, expected, inputs))
                both = in_pairs(f, expected)
                cases.append(Case(f"{head}x2", (32,), (32,) * count, both, paired(inputs, 16)))
    return cases


def mixed() -> list[Case]:
    """Operands of 16 bits, the last one and the result in float32."""
    cases = []
    for name, f in product(("add", "sub", "fma"), (F16, BF16)):
        function, count = FUNCTIONS[name]
        wide = formats.operands(F32, count, seed=1)[-1]
        narrow = [column[: len(wide)] for column in formats.operands(f, count)[:-1]]
        inputs = [*narrow, wide[: len(narrow[0])]]
        for mode, sat in product(ROUNDINGS, ("", ".sat")):

            def expected(*bits: int, f=f, function=function, mode=mode, sat=sat) -> int:
                values = [*(f.value(b) for b in bits[:-1]), F32.value(bits[-1])]
                result = function(F32, *values, mode[1:] or "rn")
                if sat:
                    result = min(result, 1.0) if result > 0 else 0.0
                return F32.bits(result)

            head = f"{name}{mode}{sat}.f32.{f.name}"
            cases.append(Case(head, (32,), (16,) * (count - 1) + (32,), expected, inputs))
    return cases


def extreme(name: str, f: Format, nan: bool, xorsign: bool) -> Callable[..., float]:
    """min and max by the PTX ISA: -0 is less than +0, a NaN is passed over unless .NaN."""

    def two(a: float, b: float) -> float:
        sign = math.copysign(1, a) * math.copysign(1, b)
        if xorsign:
            a, b = abs(a), abs(b)
        if math.isnan(a) or math.isnan(b):
            result = (
                math.nan if nan or (math.isnan(a) and math.isnan(b)) else b if math.isnan(a) else a
            )
        else:
            pick = min if name == "min" else max
            result = pick(a, b, key=lambda x: (x, math.copysign(1, x)))
        return math.copysign(result, sign) if xorsign and not math.isnan(result) else result

    def applied(_: Format, a: float, b: float, *rest: object) -> float:
        result = two(a, b)
        return two(result, rest[0]) if len(rest) > 1 else result

    return applied


def extremes() -> list[Case]:
    cases = []
    for name, nan, xorsign in product(("min", "max"), ("", ".NaN"), ("", ".xorsign.abs")):
        for f in (F32, F16, BF16):
            function = extreme(name, f, bool(nan), bool(xorsign))
            inputs = formats.operands(f, 2)
            for ftz in ("", ".ftz") if f is not BF16 else ("",):
                head = f"{name}{ftz}{nan}{xorsign}.{f.name}"
                expected = on_bits(f, function, ftz=bool(ftz))
                w = f.width
                cases.append(Case(head, (w,), (w, w), expected, inputs))
                if f is not F32:
                    both = in_pairs(f, expected)
                    cases.append(Case(f"{head}x2", (32,), (32, 32), both, paired(inputs, 16)))
        if not xorsign:
            three = formats.operands(F32, 3)
            expected = on_bits(F32, extreme(name, F32, bool(nan), False))
            cases.append(Case(f"{name}{nan}.f32", (32,), (32,) * 3, expected, three))
    for name in ("min", "max"):
        expected = on_bits(F64, extreme(name, F64, False, False))
        inputs = formats.operands(F64, 2)
        cases.append(Case(f"{name}.f64", (64,), (64, 64), expected, inputs, any_nan=True))
    return cases


def signs() -> list[Case]:
    cases = []
    for f in (F32, F64, F16, BF16):
        w = f.width
        top, one = 1 << (w - 1), formats.operands(f, 1)
        numbers = {"abs": lambda a, top=top: a & (top - 1), "neg": lambda a, top=top: a ^ top}
        for name, function in numbers.items():
            cases.append(Case(f"{name}.{f.name}", (w,), (w,), function, one))
            if w == 16:
                both = in_pairs(f, function)
                cases.append(Case(f"{name}.{f.name}x2", (32,), (32,), both, paired(one, 16)))
        if w > 16:
            two = formats.operands(f, 2)
            copied = lambda a, b, top=top: a & top | b & (top - 1)  # noqa: E731
            cases.append(Case(f"copysign.{f.name}", (w,), (w, w), copied, two))

    def flushed(bits: int) -> int:
        is_small = bits & 0x7F800000 == 0
        return bits & 0x80000000 if is_small else bits

    one = formats.operands(F32, 1)
    cases.append(Case("abs.ftz.f32", (32,), (32,), lambda a: flushed(a & 0x7FFFFFFF), one))
    cases.append(Case("neg.ftz.f32", (32,), (32,), lambda a: flushed(a ^ 0x80000000), one))
    return cases


CASES = [*singles(), *halves(), *mixed(), *extremes(), *signs()]
HEADS = {case.head for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_real(case):
    check(case)


def test_a_product_at_a_tie_is_rounded_once():
    """The product lies half way between two bfloat16, and the addend is too small for float64."""
    a, b = BF16.bits(1.0 + 2.0**-4), BF16.bits(1.0 + 2.0**-4)  # 1 + 2^-3 + 2^-8: a tie
    c = [BF16.bits(s * 2.0**-100) for s in (1, -1)]
    case = Case("fma.rn.bf16", (16,), (16, 16, 16), on_bits(BF16, formats.fma), [[a, a], [b, b], c])
    check(case)
    assert case.expected(a, b, c[0]) != case.expected(a, b, c[1])
