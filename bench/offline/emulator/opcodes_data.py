"""Rows of comparisons, conversions and moves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.offline.emulator.rows import ROUNDED, Row, bits_of, types_of

_CVT_TYPES = (
    *("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"),
    *("f16", "bf16", "tf32", "f32", "f64"),
)
_COMPARE_TYPES = (
    *("u16", "s16", "u32", "s32", "u64", "s64"),
    *("f16", "bf16", "f32", "f64", "f16x2", "bf16x2"),
)
"""In the order of the machine's own lists of types, as the one above."""
_BY_SIGN = {"mode": _COMPARE_TYPES.index("s32")}
_BY_NUMBER = {"mode": _COMPARE_TYPES.index("f32")}
_CMP_SIGNED = "(.eq|.ne|.lt|.le|.gt|.ge)"
_CMP_UNSIGNED = "(.eq|.ne|.lt|.le|.gt|.ge|.lo|.ls|.hi|.hs)"
_CMP_REAL = "(.eq|.ne|.lt|.le|.gt|.ge|.equ|.neu|.ltu|.leu|.gtu|.geu|.num|.nan)"
_JOIN = "[.and|.or|.xor]"


def comparison_rows() -> Iterator[Row]:
    for t in ("b16", "b32", "b64"):
        w = bits_of(t)
        yield Row(
            f"setp(.eq|.ne){_JOIN}.{t}",
            f"dp|p s{w} s{w} sp?",
            "setp",
            "integer",
            {"mode": _COMPARE_TYPES.index("u" + t[1:])},
        )
    for k, t in enumerate(_COMPARE_TYPES):
        w = bits_of(t)
        is_real = "f" in t
        klass = "float" if is_real else "integer"
        ftz = "[.ftz]" if t in ("f32", "f16", "f16x2") else ""
        compare = _CMP_REAL if is_real else _CMP_SIGNED if t[0] == "s" else _CMP_UNSIGNED
        form = f"s{w} s{w} sp?"
        yield Row(f"setp{compare}{_JOIN}{ftz}.{t}", f"dp|p {form}", "setp", klass, {"mode": k})
        results = ["u32", "s32", "f32"]
        if t in ("f16", "bf16"):
            results = ["u16", "s16", "u32", "s32", t]
        elif t.endswith("x2"):
            results = [t]
        for result in results:
            one = {
                "f32": 0x3F800000,
                "f16": 0x3C00,
                "bf16": 0x3F80,
                "f16x2": 0x3C00,
                "bf16x2": 0x3F80,
            }
            yield Row(
                f"set{compare}{_JOIN}{ftz}.{result}.{t}",
                f"d{bits_of(result)} {form}",
                "set",
                klass,
                {"mode": k, "offset": one.get(result, -1)},
            )
    for w in (16, 32, 64):
        names = [f"b{w}", f"u{w}", f"s{w}"] + [f"f{w}"] * (w > 16)
        yield Row(f"selp{types_of(*names)}", f"d{w} s{w} s{w} sp", f"selp.b{w}", "integer")
        form = f"d{w} s{w} s{w} s32"
        types = types_of(*names)
        yield Row(f"slct{types}.s32", form, f"slct.b{w}", "integer", _BY_SIGN)
        yield Row(f"slct[.ftz]{types}.f32", form, f"slct.b{w}", "integer", _BY_NUMBER)
    tests = ("finite", "infinite", "number", "notanumber", "normal", "subnormal")
    for k, name in enumerate(tests):
        for w in (32, 64):
            yield Row(f"testp.{name}.f{w}", f"dp s{w}", "testp", "float", {"mode": k})


def conversion_rows() -> Iterator[Row]:
    fast = {
        "cvt.s64.s32": "cvt.s64.s32",
        "cvt.u64.u32": "cvt.u64.u32",
        "cvt.s64.u32": "cvt.u64.u32",
        "cvt.u32.u64": "cvt.u32.u64",
        "cvt.s32.s64": "cvt.u32.u64",
        "cvt.u32.s64": "cvt.u32.u64",
        "cvt.s32.u64": "cvt.u32.u64",
        "cvt.u32.u16": "cvt.u32.u16",
        "cvt.s32.u16": "cvt.u32.u16",
        "cvt.s32.s16": "cvt.s32.s16",
        "cvt.u16.u32": "cvt.u16.u32",
        "cvt.s16.s32": "cvt.u16.u32",
        "cvt.rn.f32.s32": "cvt.f32.s32",
        "cvt.rn.f32.u32": "cvt.f32.u32",
        "cvt.f32.f16": "cvt.f32.f16",
        "cvt.f32.bf16": "cvt.f32.bf16",
        "cvt.f64.f32": "cvt.f64.f32",
        "cvt.rn.f32.f64": "cvt.f32.f64",
        "cvt.rn.bf16.f32": "cvt.bf16.f32",
        "cvt.rzi.s32.f32": "cvt.rzi.s32.f32",
        "cvt.rmi.f32.f32": "cvt.rmi.f32.f32",
        "cvt.rmi.ftz.f32.f32": "cvt.rmi.f32.f32",
    }

    def mode(to: str, source: str) -> int:
        return _CVT_TYPES.index(source) | _CVT_TYPES.index(to) << 8

    def row(template: str, to: str, source: str, **fields: int) -> Row:
        def choose(modifiers: list[str]) -> dict[str, Any]:
            operation = fast.get("cvt." + ".".join(modifiers))
            return {"fast_operation": operation} if operation else {}

        w, v = (32 if t == "tf32" else bits_of(t) for t in (to, source))
        form = f"d{w}+ s{v}+"
        return Row(template, form, "cvt", "convert", {"mode": mode(to, source)} | fields, choose)

    integers = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
    reals = ("f16", "bf16", "f32", "f64")
    for to in integers:
        for source in integers:
            yield row(f"cvt[.sat].{to}.{source}", to, source)
        for source in reals:
            ftz = "[.ftz]" if source == "f32" else ""
            yield row(f"cvt(.rni|.rzi|.rmi|.rpi){ftz}[.sat].{to}.{source}", to, source)
            yield row(f"cvt{ROUNDED}[.sat].{source}.{to}", source, to)
    order = {"f16": 0, "bf16": 0, "f32": 1, "f64": 2}
    for to in reals:
        for source in reals:
            ftz = "[.ftz]" if "f32" in (to, source) and "f64" not in (to, source) else ""
            if to == source:
                yield row(f"cvt{ftz}[.sat].{to}.{source}", to, source)
                head = f"cvt(.rni|.rzi|.rmi|.rpi){ftz}[.sat].{to}.{source}"
                yield row(head, to, source, join=1)
            elif order[to] > order[source]:
                yield row(f"cvt{ftz}[.sat].{to}.{source}", to, source)
            else:
                extra = "[.relu][.satfinite]" if source == "f32" and order[to] == 0 else ""
                yield row(f"cvt{ROUNDED}{ftz}[.sat]{extra}.{to}.{source}", to, source)
    yield row("cvt(.rn|.rz|.rna)[.relu][.satfinite].tf32.f32", "tf32", "f32")
    for to in ("f16", "bf16"):
        yield Row(
            f"cvt(.rn|.rz)[.relu][.satfinite].{to}x2.f32",
            "d32 s32 s32",
            "cvt.pack",
            "convert",
            {"mode": mode(to, "f32")},
        )


def move_rows() -> Iterator[Row]:
    yield Row("mov.pred", "dp sp", "mov.pred", "move")
    for w in (16, 32, 64):
        names = [f"b{w}", f"u{w}", f"s{w}"] + ([f"f{w}"] if w > 16 else ["f16", "bf16"])
        names += ["f16x2", "bf16x2"] * (w == 32)
        yield Row(f"mov{types_of(*names)}", f"d{w} s{w}", f"mov.b{w}", "move")
        for n in (2, 4):
            if w // n >= 16:
                size = {"size": w // 8}
                yield Row(f"mov.b{w}", f"d{w} {n}s{w // n}", "pack", "move", size)
                yield Row(f"mov.b{w}", f"{n}d{w // n} s{w}", "unpack", "move", size)
    for w, names in ((32, ("u32", "b32")), (64, ("u64", "b64", "s64"))):
        yield Row(f"mov{types_of(*names)}", f"d{w} clock", "clock", "move")
