"""Comparisons, selections and moves."""

from __future__ import annotations

import math
import operator
from itertools import product

import pytest

from tests.bench.offline.emulator import formats
from tests.bench.offline.emulator.formats import FORMATS
from tests.bench.offline.emulator.lanes import Case, check, integers

ORDERED = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
JOINS = {"": lambda r, c: r, ".and": operator.and_, ".or": operator.or_, ".xor": operator.xor}
REAL_COMPARISONS = (*ORDERED, "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")


def compare_reals(name: str, a: float, b: float) -> int:
    missing = math.isnan(a) or math.isnan(b)
    if name in ("num", "nan"):
        return int(missing == (name == "nan"))
    if name in ORDERED:
        return int(not missing and ORDERED[name](a, b))
    return int(missing or ORDERED[name[:2]](a, b))


def typed(kind: str, bits: int) -> int:
    w = int(kind[1:])
    return bits - (1 << w) if kind[0] == "s" and bits >> (w - 1) else bits


def predicate_after(columns: list[list[int]]) -> list[list[int]]:
    return [*columns, [k & 1 for k in range(len(columns[0]))]]


def comparers():
    """(type, comparison, ftz, bits, function of bits -> 0 or 1, operands)."""
    for kind in [f"{t}{w}" for w in (16, 32, 64) for t in "usb"]:
        w = int(kind[1:])
        names = {"b": ("eq", "ne"), "s": ORDERED, "u": (*ORDERED, *UNSIGNED)}[kind[0]]
        for name in names:

            def function(a: int, b: int, kind=kind, name=name) -> int:
                return int(ORDERED[UNSIGNED.get(name, name)](typed(kind, a), typed(kind, b)))

            yield kind, name, "", w, function, integers(w, w)
    for kind in ("f16", "bf16", "f32", "f64"):
        f = FORMATS[kind]
        inputs = formats.operands(f, 2)
        for name, ftz in product(REAL_COMPARISONS, ("", ".ftz")):
            if ftz and kind in ("bf16", "f64"):
                continue

            def function(a: int, b: int, f=f, name=name, ftz=ftz) -> int:
                x, y = f.value(a), f.value(b)
                if ftz:
                    x, y = f.flushed(x), f.flushed(y)
                return compare_reals(name, x, y)

            yield kind, name, ftz, f.width, function, inputs


def setps() -> list[Case]:
    cases = []
    for number, (kind, name, ftz, w, function, inputs) in enumerate(comparers()):
        for join, joined in JOINS.items():
            if join and (number + len(join)) % 4:
                continue  # every comparison alone, every join with a quarter of them
            head = f"setp.{name}{join}{ftz}.{kind}"
            if not join:
                both = lambda a, b, f=function: (f(a, b), 1 - f(a, b))  # noqa: E731
                cases.append(Case(head, (1, 1), (w, w), both, inputs, "d|e, a, b"))
                cases.append(Case(head, (1,), (w, w), function, inputs))
                continue
            form = "d|e, a, b, !c" if number % 2 else "d|e, a, b, c"

            def both(a: int, b: int, c: int, f=function, join=joined, flip=number % 2):
                c ^= flip
                return join(f(a, b), c), join(1 - f(a, b), c)

            operands = predicate_after(inputs)
            cases.append(Case(head, (1, 1), (w, w, 1), both, operands, form))
        if kind in ("f16", "bf16") and (not ftz or name == "lt"):

            def halves(a: int, b: int, f=function):
                return f(a & 0xFFFF, b & 0xFFFF), f(a >> 16, b >> 16)

            pairs = [[x | y << 16 for x, y in zip(c, c[5:] + c[:5], strict=True)] for c in inputs]
            head = f"setp.{name}{ftz}.{kind}x2"
            cases.append(Case(head, (1, 1), (32, 32), halves, pairs, "d|e, a, b"))
    return cases


def sets() -> list[Case]:
    cases = []
    ones = {"u16": 0xFFFF, "s16": 0xFFFF, "u32": 0xFFFFFFFF, "s32": 0xFFFFFFFF, "f32": 0x3F800000,
            "f16": 0x3C00, "bf16": 0x3F80}  # fmt: skip
    for number, (kind, name, ftz, w, function, inputs) in enumerate(comparers()):
        if kind[0] == "b" and kind != "bf16":
            continue
        results = (
            ("u16", "s16", "u32", "s32", kind) if w == 16 and "f" in kind else ("u32", "s32", "f32")
        )
        result = results[number % len(results)]
        out = 16 if result[-2:] == "16" else 32
        one = lambda a, b, f=function, v=ones[result]: v * f(a, b)  # noqa: E731
        cases.append(Case(f"set.{name}{ftz}.{result}.{kind}", (out,), (w, w), one, inputs))
        join = (".and", ".or", ".xor")[number % 3]

        def joined(a: int, b: int, c: int, f=function, join=JOINS[join], v=ones[result]) -> int:
            return v * join(f(a, b), c)

        operands = predicate_after(inputs)
        head = f"set.{name}{join}{ftz}.{result}.{kind}"
        cases.append(Case(head, (out,), (w, w, 1), joined, operands))
        if kind in ("f16", "bf16") and not (ftz and kind == "bf16"):

            def halves(a: int, b: int, f=function, v=ones[kind]) -> int:
                return v * f(a & 0xFFFF, b & 0xFFFF) | v * f(a >> 16, b >> 16) << 16

            pairs = [[x | y << 16 for x, y in zip(c, c[5:] + c[:5], strict=True)] for c in inputs]
            cases.append(Case(f"set.{name}{ftz}.{kind}x2.{kind}x2", (32,), (32, 32), halves, pairs))
    return cases


def selections() -> list[Case]:
    cases = []
    for w in (16, 32, 64):
        for t in "bus" + "f" * (w > 16):
            operands = predicate_after(integers(w, w))
            pick = lambda a, b, c: a if c else b  # noqa: E731
            cases.append(Case(f"selp.{t}{w}", (w,), (w, w, 1), pick, operands))
            by_sign = lambda a, b, c: b if c >> 31 else a  # noqa: E731
            cases.append(Case(f"slct.{t}{w}.s32", (w,), (w, w, 32), by_sign, integers(w, w, 32)))
            c = formats.operands(formats.F32, 1)[0]
            a, b = (list(range(k, k + len(c))) for k in (100, 300))
            for ftz in ("", ".ftz"):

                def by_number(a: int, b: int, c: int, ftz=ftz) -> int:
                    x = formats.F32.value(c)
                    return a if (formats.F32.flushed(x) if ftz else x) >= 0 else b

                head = f"slct{ftz}.{t}{w}.f32"
                cases.append(Case(head, (w,), (w, w, 32), by_number, [a, b, c]))
    for kind in ("f32", "f64"):
        f = FORMATS[kind]
        tests = {
            "finite": math.isfinite,
            "infinite": math.isinf,
            "number": lambda x: not math.isnan(x),
            "notanumber": math.isnan,
            "normal": lambda x, f=f: math.isfinite(x) and abs(x) >= 2.0**f.smallest,
            "subnormal": lambda x, f=f: 0 < abs(x) < 2.0**f.smallest,
        }
        for name, test in tests.items():
            expected = lambda a, f=f, test=test: int(test(f.value(a)))  # noqa: E731
            inputs = formats.operands(f, 1)
            cases.append(Case(f"testp.{name}.{kind}", (1,), (f.width,), expected, inputs))
    return cases


def moves() -> list[Case]:
    cases = [Case("mov.pred", (1,), (1,), lambda a: a, integers(1))]
    names = {
        16: ("b16", "u16", "s16", "f16", "bf16"),
        32: ("b32", "u32", "s32", "f32", "f16x2", "bf16x2"),
        64: ("b64", "u64", "s64", "f64"),
    }
    for w, kinds in names.items():
        for kind in kinds:
            cases.append(Case(f"mov.{kind}", (w,), (w,), lambda a: a, integers(w)))
    for w, n in ((32, 2), (64, 2), (64, 4)):
        part = w // n
        columns = integers(*[part] * n)

        def packed(*parts: int, part=part) -> int:
            return sum(p << part * k for k, p in enumerate(parts))

        form = "d, {" + ", ".join("abcf"[:n]) + "}"
        cases.append(Case(f"mov.b{w}", (w,), (part,) * n, packed, columns, form))
        for k in range(n):
            vector = ["_"] * n
            vector[k] = "d"
            picked = lambda a, k=k, part=part: a >> part * k & (1 << part) - 1  # noqa: E731
            form = "{" + ", ".join(vector) + "}, a"
            cases.append(Case(f"mov.b{w}", (part,), (w,), picked, integers(w), form))
    return cases


def literals() -> list[Case]:
    """Numbers as operands, in every notation."""
    values = {
        "mov.u32": (("0x1F", 31), ("-1", 0xFFFFFFFF), ("017", 15), ("0b101", 5), ("7U", 7)),
        "mov.f32": (
            ("0f3F800000", 0x3F800000),
            ("1.5", 0x3FC00000),
            ("0d3FF8000000000000", 0x3FC00000),
        ),
        "mov.f64": (("0d3FF8000000000000", 0x3FF8 << 48), ("0f3FC00000", 0x3FF8 << 48)),
        "mov.u16": (("0xBC00", 0xBC00), ("-2", 0xFFFE)),
        "mov.pred": (("1", 1), ("0", 0), ("-1", 1)),
    }
    cases = []
    for head, pairs in values.items():
        w = 1 if head == "mov.pred" else int(head[-2:])
        for text, bits in pairs:
            cases.append(
                Case(head, (w,), (w,), lambda a, bits=bits: bits, [[0] * 32], f"d, {text}")
            )
    return cases


CASES = [*setps(), *sets(), *selections(), *moves(), *literals()]
HEADS = {case.head for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_data(case):
    check(case)
