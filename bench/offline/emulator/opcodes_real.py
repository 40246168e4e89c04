"""Rows of floating point arithmetic, exact and approximate."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from bench.offline.emulator.rows import FLAGS, ROUNDED, Row, bits_of

_APPROXIMATIONS = (
    "ex2",
    "lg2",
    "rcp",
    "sqrt",
    "rsqrt",
    "sin",
    "cos",
    "tanh",
    "div.full",
    "div.approx",
)


def real_rows() -> Iterator[Row]:
    for name in ("add", "sub", "mul"):
        yield Row(f"{name}{ROUNDED}[.ftz][.sat].f32", "d32 s32 s32", f"{name}.f32", "float")
        yield Row(f"{name}{ROUNDED}[.ftz].f32x2", "d64 s64 s64", f"{name}.f32x2", "float")
        yield Row(f"{name}{ROUNDED}.f64", "d64 s64 s64", f"{name}.f64", "float")
        for t in ("f16", "f16x2"):
            w = bits_of(t)
            yield Row(f"{name}[.rn][.ftz][.sat].{t}", f"d{w} s{w} s{w}", f"{name}.{t}", "float")
        for t in ("bf16", "bf16x2"):
            w = bits_of(t)
            yield Row(f"{name}[.rn].{t}", f"d{w} s{w} s{w}", f"{name}.{t}", "float")
    # Mixed precision, from compute capability 10.0 on: the last operand is float32.
    for name, t in product(("add", "sub", "fma"), ("f16", "bf16")):
        halves = "s16 s16" if name == "fma" else "s16"
        head = f"{name}{ROUNDED}[.sat].f32.{t}"
        yield Row(head, f"d32 {halves} s32", f"{name}.f32.{t}", "float")
    for name in ("fma", "mad"):
        yield Row(f"{name}{ROUNDED}[.ftz][.sat].f32", "d32 s32 s32 s32", "fma.f32", "float")
        yield Row(f"{name}{ROUNDED}.f64", "d64 s64 s64 s64", "fma.f64", "float")
    yield Row(f"fma{ROUNDED}[.ftz].f32x2", "d64 s64 s64 s64", "fma.f32x2", "float")
    for t in ("f16", "f16x2"):
        w = bits_of(t)
        form = f"d{w} s{w} s{w} s{w}"
        yield Row(f"fma.rn[.ftz][.sat|.relu].{t}", form, f"fma.{t}", "float")
    for t in ("bf16", "bf16x2"):
        w = bits_of(t)
        yield Row(f"fma.rn[.relu].{t}", f"d{w} s{w} s{w} s{w}", f"fma.{t}", "float")
    yield Row("div(.rn|.rz|.rm|.rp)[.ftz].f32", "d32 s32 s32", "div.f32", "special")
    yield Row("div(.rn|.rz|.rm|.rp).f64", "d64 s64 s64", "div.f64", "special")
    for name in ("rcp", "sqrt"):
        yield Row(f"{name}(.rn|.rz|.rm|.rp)[.ftz].f32", "d32 s32", f"{name}.f32", "special")
        yield Row(f"{name}(.rn|.rz|.rm|.rp).f64", "d64 s64", f"{name}.f64", "special")
    for name in ("min", "max"):
        form = "d32 s32 s32 s32?"
        yield Row(f"{name}[.ftz][.NaN][.xorsign.abs].f32", form, f"{name}.f32", "float")
        yield Row(f"{name}.f64", "d64 s64 s64", f"{name}.f64", "float")
        for t in ("f16", "f16x2"):
            w = bits_of(t)
            form = f"d{w} s{w} s{w}"
            yield Row(f"{name}[.ftz][.NaN][.xorsign.abs].{t}", form, f"{name}.{t}", "float")
        for t in ("bf16", "bf16x2"):
            w = bits_of(t)
            form = f"d{w} s{w} s{w}"
            yield Row(f"{name}[.NaN][.xorsign.abs].{t}", form, f"{name}.{t}", "float")
    for name in ("abs", "neg"):
        yield Row(f"{name}[.ftz].f32", "d32 s32", f"{name}.f32", "float")
        yield Row(f"{name}.f64", "d64 s64", f"{name}.f64", "float")
        yield Row(f"{name}(.f16|.bf16)", "d16 s16", f"{name}.half", "float")
        yield Row(f"{name}(.f16x2|.bf16x2)", "d32 s32", f"{name}.halfx2", "float")
    yield Row("copysign.f32", "d32 s32 s32", "copysign.f32", "float")
    yield Row("copysign.f64", "d64 s64 s64", "copysign.f64", "float")


def approximate_rows() -> Iterator[Row]:
    def mode(name: str) -> dict[str, int]:
        return {"mode": _APPROXIMATIONS.index(name) + 1}

    for name in ("ex2", "lg2", "rcp", "sqrt", "rsqrt", "sin", "cos"):
        head = f"{name}.approx[.ftz].f32"
        yield Row(head, "d32 s32", "approximate.f32", "special", mode(name))
    yield Row("tanh.approx.f32", "d32 s32", "approximate.f32", "special", mode("tanh"))
    for name, ftz in (("ex2", ".ftz"), ("tanh", "")):
        bfloat = mode(name) | {"flags": FLAGS["signed"]}
        yield Row(f"{name}.approx.f16", "d16 s16", "approximate.half", "special", mode(name))
        yield Row(f"{name}.approx.f16x2", "d32 s32", "approximate.halfx2", "special", mode(name))
        yield Row(f"{name}.approx{ftz}.bf16", "d16 s16", "approximate.half", "special", bfloat)
        yield Row(f"{name}.approx{ftz}.bf16x2", "d32 s32", "approximate.halfx2", "special", bfloat)
    for name in ("full", "approx"):
        head = f"div.{name}[.ftz].f32"
        yield Row(head, "d32 s32 s32", "quotient", "special", mode(f"div.{name}"))
