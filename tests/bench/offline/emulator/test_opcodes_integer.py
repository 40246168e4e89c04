"""Integer arithmetic, logic, shifts and bits against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest

from bench.offline.emulator import Fault
from tests.bench.offline.emulator.lanes import Case, check, integers, kernel, launch


def signed(x: int, bits: int) -> int:
    return x - (1 << bits) if x >> (bits - 1) else x


def cut(x: int, bits: int) -> int:
    return x & ((1 << bits) - 1)


def of(kind: str, x: int, bits: int) -> int:
    return signed(x, bits) if kind == "s" else x


def clamp(x: int, bits: int) -> int:
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, x))


def quotient(a: int, b: int) -> int:
    q = abs(a) // abs(b)
    return q if (a < 0) == (b < 0) else -q


def divisible(kind: str, w: int) -> list[list[int]]:
    """Operands of a division whose result is defined."""
    a, b = integers(w, w)
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if y]
    if kind == "s":
        pairs = [p for p in pairs if p != (1 << (w - 1), (1 << w) - 1)]
    return [list(column) for column in zip(*pairs, strict=True)]


def arithmetic() -> list[Case]:
    cases = []
    for w in (16, 32, 64):
        two, three = integers(w, w), integers(w, w, w)
        for t in "us":

            def typed(x: int, t: str = t, w: int = w) -> int:
                return of(t, x, w)

            def add(head, operands, function, inputs=None, wide=w, t=t, w=w, all=(two, three)):
                inputs = inputs or all[operands - 2]
                cases.append(Case(f"{head}.{t}{w}", (wide,), (w,) * operands, function, inputs))

            add("add", 2, lambda a, b, w=w: cut(a + b, w))
            add("sub", 2, lambda a, b, w=w: cut(a - b, w))
            add("mul.lo", 2, lambda a, b, w=w: cut(a * b, w))
            add("mad.lo", 3, lambda a, b, c, w=w: cut(a * b + c, w))
            add("mul.hi", 2, lambda a, b, f=typed, w=w: cut(f(a) * f(b) >> w, w))
            add("mad.hi", 3, lambda a, b, c, f=typed, w=w: cut((f(a) * f(b) >> w) + c, w))
            add("min", 2, lambda a, b, f=typed, w=w: cut(min(f(a), f(b)), w))
            add("max", 2, lambda a, b, f=typed, w=w: cut(max(f(a), f(b)), w))
            add("sad", 3, lambda a, b, c, f=typed, w=w: cut(c + abs(f(a) - f(b)), w))
            numbers = divisible(t, w)
            add("div", 2, lambda a, b, f=typed, w=w: cut(quotient(f(a), f(b)), w), numbers)
            add(
                "rem",
                2,
                lambda a, b, f=typed, w=w: cut(f(a) - quotient(f(a), f(b)) * f(b), w),
                numbers,
            )
            if w < 64:
                add("mul.wide", 2, lambda a, b, f=typed, w=w: cut(f(a) * f(b), 2 * w), wide=2 * w)
                cases.append(
                    Case(
                        f"mad.wide.{t}{w}",
                        (2 * w,),
                        (w, w, 2 * w),
                        lambda a, b, c, f=typed, w=w: cut(f(a) * f(b) + c, 2 * w),
                        integers(w, w, 2 * w),
                    )
                )
        one = integers(w)
        cases.append(Case(f"neg.s{w}", (w,), (w,), lambda a, w=w: cut(-a, w), one))
        cases.append(Case(f"abs.s{w}", (w,), (w,), lambda a, w=w: cut(abs(signed(a, w)), w), one))
    return cases


def saturating_and_pairs() -> list[Case]:
    two, three = integers(32, 32), integers(32, 32, 32)

    def s(x: int) -> int:
        return signed(x, 32)

    def halves(function, t: str):
        def both(a: int, b: int) -> int:
            low = function(of(t, a & 0xFFFF, 16), of(t, b & 0xFFFF, 16))
            high = function(of(t, a >> 16, 16), of(t, b >> 16, 16))
            return cut(high, 16) << 16 | cut(low, 16)

        return both

    cases = [
        Case("add.sat.s32", (32,), (32, 32), lambda a, b: cut(clamp(s(a) + s(b), 32), 32), two),
        Case("sub.sat.s32", (32,), (32, 32), lambda a, b: cut(clamp(s(a) - s(b), 32), 32), two),
        Case(
            "mad.hi.sat.s32",
            (32,),
            (32, 32, 32),
            lambda a, b, c: cut(clamp((s(a) * s(b) >> 32) + s(c), 32), 32),
            three,
        ),
    ]
    functions = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "min": min, "max": max}
    for name, function in functions.items():
        for t in "us":
            cases.append(Case(f"{name}.{t}16x2", (32,), (32, 32), halves(function, t), two))

    def dot(ta: str, tb: str):
        def sum4(a: int, b: int, c: int) -> int:
            for k in range(0, 32, 8):
                c += of(ta, a >> k & 255, 8) * of(tb, b >> k & 255, 8)
            return cut(c, 32)

        return sum4

    for ta in "us":
        for tb in "us":
            cases.append(Case(f"dp4a.{ta}32.{tb}32", (32,), (32, 32, 32), dot(ta, tb), three))
    return cases


def logic() -> list[Case]:
    cases = []
    functions = {
        "and": lambda a, b: a & b,
        "or": lambda a, b: a | b,
        "xor": lambda a, b: a ^ b,
    }
    for name, function in functions.items():
        cases.append(Case(f"{name}.pred", (1,), (1, 1), function, integers(1, 1)))
        for w in (16, 32, 64):
            cases.append(Case(f"{name}.b{w}", (w,), (w, w), function, integers(w, w)))
    cases.append(Case("not.pred", (1,), (1,), lambda a: 1 - a, integers(1)))
    for w in (16, 32, 64):
        one = integers(w)
        cases.append(Case(f"not.b{w}", (w,), (w,), lambda a, w=w: cut(~a, w), one))
        cases.append(Case(f"cnot.b{w}", (w,), (w,), lambda a: int(a == 0), one))
        by = integers(w, 32)
        cases.append(Case(f"shl.b{w}", (w,), (w, 32), lambda a, b, w=w: cut(a << min(b, w), w), by))
        for t in "ub":
            cases.append(Case(f"shr.{t}{w}", (w,), (w, 32), lambda a, b, w=w: a >> min(b, w), by))
        cases.append(
            Case(
                f"shr.s{w}",
                (w,),
                (w, 32),
                lambda a, b, w=w: cut(signed(a, w) >> min(b, w - 1), w),
                by,
            )
        )
    return cases


def funnel() -> list[Case]:
    cases = []
    for mode in ("clamp", "wrap"):

        def by(c: int, mode: str = mode) -> int:
            return min(c, 32) if mode == "clamp" else c & 31

        three = integers(32, 32, 32)
        cases.append(
            Case(
                f"shf.l.{mode}.b32",
                (32,),
                (32, 32, 32),
                lambda a, b, c, by=by: cut((b << 32 | a) << by(c) >> 32, 32),
                three,
            )
        )
        cases.append(
            Case(
                f"shf.r.{mode}.b32",
                (32,),
                (32, 32, 32),
                lambda a, b, c, by=by: cut((b << 32 | a) >> by(c), 32),
                three,
            )
        )
    for table in (0x00, 0x1E, 0x78, 0x96, 0xCA, 0xE8, 0xF8, 0xFF):

        def looked_up(a: int, b: int, c: int, table: int = table) -> int:
            bits = (
                (table >> ((a >> k & 1) * 4 + (b >> k & 1) * 2 + (c >> k & 1)) & 1) << k
                for k in range(32)
            )
            return sum(bits)

        form = f"d, a, b, c, {table:#x}"
        case = Case("lop3.b32", (32,), (32, 32, 32), looked_up, integers(32, 32, 32), form)
        cases.append(case)
    return cases


def permutes() -> list[Case]:
    # by the PTX ISA's table: for selector 0, 1, 2, 3 the bytes of the result, highest first
    tables = {
        "f4e": ((3, 2, 1, 0), (4, 3, 2, 1), (5, 4, 3, 2), (6, 5, 4, 3)),
        "b4e": ((5, 6, 7, 0), (6, 7, 0, 1), (7, 0, 1, 2), (0, 1, 2, 3)),
        "rc8": ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
        "ecl": ((3, 2, 1, 0), (3, 2, 1, 1), (3, 2, 2, 2), (3, 3, 3, 3)),
        "ecr": ((0, 0, 0, 0), (1, 1, 1, 0), (2, 2, 1, 0), (3, 2, 1, 0)),
        "rc16": ((1, 0, 1, 0), (3, 2, 3, 2), (1, 0, 1, 0), (3, 2, 3, 2)),
    }

    def byte(a: int, b: int, k: int) -> int:
        return (b << 32 | a) >> 8 * k & 255

    def general(a: int, b: int, c: int) -> int:
        result = 0
        for k in range(4):
            pick = c >> 4 * k & 15
            value = byte(a, b, pick & 7)
            if pick & 8:
                value = 255 if value & 128 else 0
            result |= value << 8 * k
        return result

    three = integers(32, 32, 32)
    three[2] = [(c * 0x9E3779B1) & 0xFFFFFFFF for c in three[2]]
    cases = [Case("prmt.b32", (32,), (32, 32, 32), general, three)]
    for mode, table in tables.items():

        def by_table(a: int, b: int, c: int, table=table) -> int:
            return int.from_bytes(bytes(byte(a, b, k) for k in table[c & 3]), "big")

        cases.append(Case(f"prmt.b32.{mode}", (32,), (32, 32, 32), by_table, three))
    return cases


def fields() -> list[Case]:
    """Positions and lengths around all edges, by the PTX ISA's own loops."""
    places = [0, 1, 7, 8, 30, 31, 32, 33, 62, 63, 64, 65, 200, 255, 256 + 4]

    def extracted(a: int, position: int, length: int, w: int, is_signed: bool) -> int:
        position, length, top = position & 255, length & 255, w - 1
        sign = 0
        if is_signed and length:
            sign = a >> min(position + length - 1, top) & 1
        result = 0
        for k in range(w):
            inside = k < length and position + k <= top
            result |= (a >> (position + k) & 1 if inside else sign) << k
        return result

    def inserted(a: int, b: int, position: int, length: int, w: int) -> int:
        position, length = position & 255, length & 255
        for k in range(length):
            if position + k < w:
                b = b & ~(1 << (position + k)) | (a >> k & 1) << (position + k)
        return b

    cases = []
    for w in (32, 64):
        values = integers(w)[0][:20]
        rows = [(a, p, n) for a in values for p in places for n in places]
        columns = [list(c) for c in zip(*rows, strict=True)]
        for t in "us":
            cases.append(
                Case(
                    f"bfe.{t}{w}",
                    (w,),
                    (w, 32, 32),
                    lambda a, p, n, w=w, t=t: extracted(a, p, n, w, t == "s"),
                    columns,
                )
            )
        targets = [values[::-1][k % len(values)] for k in range(len(rows))]
        columns = [columns[0], targets, columns[1], columns[2]]
        cases.append(
            Case(
                f"bfi.b{w}",
                (w,),
                (w, w, 32, 32),
                lambda a, b, p, n, w=w: inserted(a, b, p, n, w),
                columns,
            )
        )
    return cases


def counting() -> list[Case]:
    cases = []
    for w in (32, 64):
        one = integers(w)

        def found(a: int, w: int, t: str, is_shift: bool) -> int:
            if t == "s" and a >> (w - 1):
                a = cut(~a, w)
            if not a:
                return 0xFFFFFFFF
            return w - a.bit_length() if is_shift else a.bit_length() - 1

        cases += [
            Case(f"popc.b{w}", (32,), (w,), lambda a: a.bit_count(), one),
            Case(f"clz.b{w}", (32,), (w,), lambda a, w=w: w - a.bit_length(), one),
            Case(f"brev.b{w}", (w,), (w,), lambda a, w=w: int(f"{a:0{w}b}"[::-1], 2), one),
        ]
        for t in "us":
            for shift in ("", ".shiftamt"):
                cases.append(
                    Case(
                        f"bfind{shift}.{t}{w}",
                        (32,),
                        (w,),
                        lambda a, w=w, t=t, s=bool(shift): found(a, w, t, s),
                        one,
                    )
                )
    return cases


CASES = [
    *arithmetic(),
    *saturating_and_pairs(),
    *logic(),
    *funnel(),
    *permutes(),
    *fields(),
    *counting(),
]
HEADS = {case.head for case in CASES} | {
    f"{head}.{t}{w}"
    for head in ("add.cc", "addc.cc", "addc", "sub.cc", "subc.cc", "subc")
    for t in "us"
    for w in (32, 64)
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_integer(case):
    check(case)


@pytest.mark.parametrize("t", "us")
@pytest.mark.parametrize("w", (32, 64))
@pytest.mark.parametrize("name", ("add", "sub"))
def test_carry_goes_from_word_to_word(name, w, t):
    """Three words a number: the low one sets the carry, the middle one hands it on."""
    dtype = np.uint32 if w == 32 else np.uint64
    generator = np.random.default_rng(w)
    a, b = (np.frombuffer(generator.bytes(96 * w // 8), dtype).reshape(32, 3).copy() for _ in "ab")
    a[:8], b[:8, 0] = 2**w - 1, 1
    b[8:16], a[8:16, 0] = 2**w - 1, 0
    result = np.zeros_like(a)
    r, size = ("%r" if w == 32 else "%d"), w // 8
    loads = "".join(
        f"ld.global.b{w} {r}{10 + 3 * k + n}, [%d{k + 1} + {n * size}];"
        for k in range(2)
        for n in range(3)
    )
    heads = (f"{name}.cc", f"{name}c.cc", f"{name}c")
    sums = "".join(
        f"{head}.{t}{w} {r}{20 + n}, {r}{10 + n}, {r}{13 + n};" for n, head in enumerate(heads)
    )
    stores = "".join(f"st.global.b{w} [%d3 + {n * size}], {r}{20 + n};" for n in range(3))
    pointers = "".join(
        f"ld.param.u64 %d{k + 4}, [p{k}]; mad.wide.u32 %d{k + 1}, %r1, {3 * size}, %d{k + 4};"
        for k in range(3)
    )
    ptx = kernel(
        f"mov.u32 %r1, %tid.x; {pointers} {loads} {sums} {stores}",
        ".param .u64 p0, .param .u64 p1, .param .u64 p2",
    )
    launch(ptx, [a, b, result])

    def whole(words) -> int:
        return sum(int(x) << w * k for k, x in enumerate(words))

    for lane in range(32):
        x, y = whole(a[lane]), whole(b[lane])
        expected = cut(x + y if name == "add" else x - y, 3 * w)
        assert whole(result[lane]) == expected


def test_division_by_zero_is_not_defined():
    case = Case("div.s32", (32,), (32, 32), lambda a, b: 0, [[1] * 32, [1] * 31 + [0]])
    with pytest.raises(Fault, match=r"uninitialised register.*lane 31"):
        check(case)
