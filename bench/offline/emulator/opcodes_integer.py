"""Rows of integer arithmetic, logic, shifts and the picking of bits."""

from __future__ import annotations

from collections.abc import Iterator

from bench.offline.emulator.rows import FLAGS, Row, types_of


def integer_rows() -> Iterator[Row]:
    for w in (16, 32, 64):
        both = types_of(f"u{w}", f"s{w}")
        d, s = f"d{w}", f"s{w}"
        for name in ("add", "sub"):
            yield Row(f"{name}{both}", f"{d} {s} {s}", f"{name}.b{w}", "integer")
        yield Row(f"mul.lo{both}", f"{d} {s} {s}", f"mul.lo.b{w}", "integer")
        yield Row(f"mad.lo{both}", f"{d} {s} {s} {s}", f"mad.lo.b{w}", "integer")
        yield Row(f"neg.s{w}", f"{d} {s}", f"neg.b{w}", "integer")
        yield Row(f"abs.s{w}", f"{d} {s}", f"abs.s{w}", "integer")
        for t in (f"u{w}", f"s{w}"):
            for name in ("min", "max", "div", "rem"):
                yield Row(f"{name}.{t}", f"{d} {s} {s}", f"{name}.{t}", "integer")
            yield Row(f"sad.{t}", f"{d} {s} {s} {s}", f"sad.{t}", "integer")
            yield Row(f"mul.hi.{t}", f"{d} {s} {s}", f"mul.hi.{t}", "integer")
            yield Row(f"mad.hi.{t}", f"{d} {s} {s} {s}", f"mad.hi.{t}", "integer")
            if w < 64:
                wide = f"d{2 * w} {s} {s}"
                yield Row(f"mul.wide.{t}", wide, f"mul.wide.{t}", "integer")
                yield Row(f"mad.wide.{t}", f"{wide} s{2 * w}", f"mad.wide.{t}", "integer")
    for name in ("add", "sub"):
        yield Row(f"{name}.sat.s32", "d32 s32 s32", f"{name}.sat.s32", "integer")
        yield Row(f"{name}(.u16x2|.s16x2)", "d32 s32 s32", f"{name}.b16x2", "integer")
    yield Row("mad.hi.sat.s32", "d32 s32 s32 s32", "mad.hi.sat.s32", "integer")
    for name in ("min", "max"):
        for t in ("u16x2", "s16x2"):
            yield Row(f"{name}.{t}", "d32 s32 s32", f"{name}.{t}", "integer")
    for k, types in enumerate((".u32.u32", ".s32.u32", ".u32.s32", ".s32.s32")):
        yield Row(f"dp4a{types}", "d32 s32 s32 s32", "dp4a", "integer", {"mode": k})
    for w in (32, 64):
        t = types_of(f"u{w}", f"s{w}")
        for name, operation in (("add", "add.carry"), ("sub", "sub.borrow")):
            for head, reads, writes in (
                (f"{name}.cc", 0, 1),
                (f"{name}c.cc", 1, 1),
                (f"{name}c", 1, 0),
            ):
                yield Row(
                    f"{head}{t}",
                    f"d{w} s{w} s{w}",
                    f"{operation}.b{w}",
                    "integer",
                    {"carry_in": reads, "carry_out": writes},
                )


def bit_rows() -> Iterator[Row]:
    for name in ("and", "or", "xor"):
        yield Row(f"{name}.pred", "dp sp sp", f"{name}.pred", "integer")
        for w in (16, 32, 64):
            yield Row(f"{name}.b{w}", f"d{w} s{w} s{w}", f"{name}.b{w}", "integer")
    yield Row("not.pred", "dp sp", "not.pred", "integer")
    for w in (16, 32, 64):
        yield Row(f"not.b{w}", f"d{w} s{w}", f"not.b{w}", "integer")
        yield Row(f"cnot.b{w}", f"d{w} s{w}", f"cnot.b{w}", "integer")
        yield Row(f"shl.b{w}", f"d{w} s{w} s32", f"shl.b{w}", "integer")
        yield Row(f"shr(.u{w}|.b{w})", f"d{w} s{w} s32", f"shr.u{w}", "integer")
        yield Row(f"shr.s{w}", f"d{w} s{w} s32", f"shr.s{w}", "integer")
    yield Row("lop3.b32", "d32 s32 s32 s32 table", "lop3", "integer")
    for side in "lr":
        for mode in ("clamp", "wrap"):
            yield Row(
                f"shf.{side}.{mode}.b32",
                "d32 s32 s32 s32",
                f"shf.{side}",
                "integer",
                {"flags": FLAGS["sat"] * (mode == "clamp")},
            )
    for k, mode in enumerate(("", ".f4e", ".b4e", ".rc8", ".ecl", ".ecr", ".rc16")):
        yield Row(f"prmt.b32{mode}", "d32 s32 s32 s32", "prmt", "integer", {"mode": k})
    for w in (32, 64):
        for t in "us":
            flags = {"flags": FLAGS["signed"] * (t == "s")}
            yield Row(f"bfe.{t}{w}", f"d{w} s{w} s32 s32", f"bfe.b{w}", "integer", flags)
            yield Row(f"bfind[.shiftamt].{t}{w}", f"d32 s{w}", f"bfind.b{w}", "integer", flags)
        yield Row(f"bfi.b{w}", f"d{w} s{w} s{w} s32 s32", f"bfi.b{w}", "integer")
        yield Row(f"brev.b{w}", f"d{w} s{w}", f"brev.b{w}", "integer")
        yield Row(f"popc.b{w}", f"d32 s{w}", f"popc.b{w}", "integer")
        yield Row(f"clz.b{w}", f"d32 s{w}", f"clz.b{w}", "integer")
