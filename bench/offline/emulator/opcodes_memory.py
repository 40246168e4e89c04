"""Rows of memory, of what warps and blocks do together, of matrices and of control."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bench.offline.emulator.rows import FLAGS, GENERIC, SPACES, Row, bits_of, types_of

_ATOMIC_TYPES = ("u32", "s32", "u64", "s64", "f32", "f64", "f16", "bf16", "f16x2", "bf16x2")
_ATOMICS = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")

_SCOPE = "[.cta|.cluster|.gpu|.sys]"
_L1 = "[.L1::evict_normal|.L1::evict_unchanged|.L1::evict_first|.L1::evict_last|.L1::no_allocate]"
_L2 = (
    "[.L2::cache_hint][.L2::64B|.L2::128B|.L2::256B]"
    "[.L2::evict_first|.L2::evict_last|.L2::evict_normal]"
)
_DATA = (
    "b8",
    "u8",
    "s8",
    "b16",
    "u16",
    "s16",
    "b32",
    "u32",
    "s32",
    "f32",
    "b64",
    "u64",
    "s64",
    "f64",
)


def _memory_fields(modifiers: list[str]) -> dict[str, Any]:
    """Space, size, vector and flags of a load, a store or an atomic."""
    spaces = [SPACES[m.split("::")[0]] for m in modifiers if m.split("::")[0] in SPACES]
    space = spaces[0] if spaces else GENERIC
    type_ = next(
        m for m in reversed(modifiers) if re.fullmatch(r"[a-z]+\d+(x2)?", m) and m[0] != "v"
    )
    vector = next((int(m[1:]) for m in modifiers if re.fullmatch(r"v\d", m)), 1)
    strong = {"relaxed", "acquire", "release", "acq_rel", "volatile"} & set(modifiers)
    flags = FLAGS["signed"] * (type_[0] == "s") | FLAGS["strong"] * bool(strong)
    fields = {"space": space, "size": bits_of(type_) // 8, "vector": vector, "flags": flags}
    if space in (SPACES["shared"], SPACES["local"]):
        fields["klass"] = "shared" if space == SPACES["shared"] else "local"
    return fields


def memory_rows() -> Iterator[Row]:
    types, vectors = types_of(*_DATA), "[.v2|.v4|.v8]"
    strong = "[.weak|.relaxed|.acquire|.volatile]"
    spaces = "[.global|.const|.shared|.shared::cta|.local]"
    cache = "[.ca|.cg|.cs|.lu|.cv|.nc]"
    head = f"ld{strong}{spaces}{_SCOPE}{cache}{_L1}{_L2}{vectors}{types}"
    yield Row(head, "D A hint?", "ld", "load", choose=_memory_fields)
    yield Row(f"ld.param{vectors}{types}", "D P", "moves", "move", choose=_memory_fields)
    strong = "[.weak|.relaxed|.release|.volatile]"
    spaces = "[.global|.shared|.shared::cta|.local]"
    cache = "[.wb|.cg|.cs|.wt]"
    head = f"st{strong}{spaces}{_SCOPE}{cache}{_L1}{_L2}{vectors}{types}"
    yield Row(head, "A S hint?", "st", "store", choose=_memory_fields)
    order = "[.relaxed|.acquire|.release|.acq_rel]"
    spaces = "[.global|.shared|.shared::cta]"
    allowed = {
        "add": ("u32", "s32", "u64", "s64", "f32", "f64", "f16", "bf16", "f16x2", "bf16x2"),
        "min": ("u32", "s32", "u64", "s64", "f16", "bf16", "f16x2", "bf16x2"),
        "max": ("u32", "s32", "u64", "s64", "f16", "bf16", "f16x2", "bf16x2"),
        "and": ("b32", "b64"),
        "or": ("b32", "b64"),
        "xor": ("b32", "b64"),
        "exch": ("b32", "b64"),
        "cas": ("b16", "b32", "b64"),
        "inc": ("u32",),
        "dec": ("u32",),
    }
    for name, names in allowed.items():
        for type_ in names:
            kind = (
                type_.replace("b16", "u32").replace("b", "u")
                if type_[0] == "b" and type_[1] != "f"
                else type_
            )
            mode = {"mode": _ATOMICS.index(name) | _ATOMIC_TYPES.index(kind) << 8}
            vector = ""
            if name == "add" and type_ == "f32":
                vector = "[.v2|.v4]"
            elif "16" in type_ and name in ("add", "min", "max"):
                vector = "[.v2|.v4|.v8]"
            noftz = "[.noftz]" if "16" in type_ else ""
            head = f"{order}{spaces}{_SCOPE}.{name}{noftz}[.L2::cache_hint]{vector}.{type_}"
            extra = " S" if name == "cas" else ""
            yield Row(f"atom{head}", f"D A S{extra} hint?", "atom", "atomic", mode, _memory_fields)
            if name not in ("exch", "cas"):
                yield Row(f"red{head}", "A S hint?", "atom", "atomic", mode, _memory_fields)
    for w in (32, 64):
        for name, space in SPACES.items():
            fields = {"space": space}
            yield Row(f"cvta.{name}.u{w}", f"d{w} s{w}", "cvta", "integer", fields)
            to = fields | {"mode": 1}
            yield Row(f"cvta.to.{name}.u{w}", f"d{w} s{w}", "cvta", "integer", to)
    yield Row("prefetch[.global|.local](.L1|.L2)", "A", "nothing", "other")
    yield Row("prefetchu.L1", "A", "nothing", "other")
    policy = "(.L2::evict_first|.L2::evict_last|.L2::evict_normal|.L2::evict_unchanged)"
    yield Row(
        f"createpolicy.fractional{policy}[.L2::evict_first|.L2::evict_unchanged].b64",
        "d64 s32?",
        "zero",
        "other",
    )


def together_rows() -> Iterator[Row]:
    """Instructions of a whole warp or block."""
    for k, mode in enumerate(("idx", "up", "down", "bfly")):
        form = "d32|p s32 s32 s32 s32"
        yield Row(f"shfl.sync.{mode}.b32", form, "shfl", "shuffle", {"mode": k, "target": 3})
    for k, mode in enumerate(("all", "any", "uni")):
        head = f"vote.sync.{mode}.pred"
        yield Row(head, "dp sp s32", "vote", "shuffle", {"mode": k, "target": 1})
    yield Row("vote.sync.ballot.b32", "d32 sp s32", "vote", "shuffle", {"mode": 3, "target": 1})
    for w in (32, 64):
        row = ("match", "shuffle", {"target": 1})
        yield Row(f"match.any.sync.b{w}", f"d32 s{w} s32", *row)
        row = ("match", "shuffle", {"target": 1, "mode": 1})
        yield Row(f"match.all.sync.b{w}", f"d32|p s{w} s32", *row)
    for k, name in enumerate(("add", "min", "max", "and", "or", "xor")):
        for t in ("u32", "s32") if k < 3 else ("b32",):
            fields = {"mode": k, "target": 1, "flags": FLAGS["signed"] * (t == "s32")}
            yield Row(f"redux.sync.{name}.{t}", "d32 s32 s32", "redux", "shuffle", fields)
    for k, name in ((1, "min"), (2, "max")):
        for mode, magnitude in ((k, ""), (k | 8, ".abs")):
            head = f"redux.sync.{name}{magnitude}[.NaN].f32"
            fields = {"mode": mode, "target": 1}
            yield Row(head, "d32 s32 s32", "redux.f32", "shuffle", fields)
    yield Row("elect.sync", "d32|p s32", "elect", "shuffle", {"target": 0})
    yield Row("activemask.b32", "d32", "activemask", "shuffle")
    for name in ("bar[.cta].sync", "barrier[.cta].sync[.aligned]"):
        yield Row(name, "s32 s32?", "bar", "barrier")
    for name in ("bar[.cta].arrive", "barrier[.cta].arrive[.aligned]"):
        yield Row(name, "s32 s32", "bar", "barrier", {"mode": 1})
    yield Row("bar.warp.sync", "s32", "bar.warp", "barrier", {"target": 0})
    yield Row("membar(.cta|.gl|.sys)", "", "nothing", "barrier")
    order = "[.sc|.acq_rel|.acquire|.release|.relaxed]"
    yield Row(f"fence{order}(.cta|.cluster|.gpu|.sys)", "", "nothing", "barrier")


def matrix_rows() -> Iterator[Row]:
    def mma(shape: str, depth: int, element: str, sums: str) -> Row:
        a = depth // (4 if element == "tf32" else 8) * 2
        c = 4 if sums == "f32" else 2
        fields = {
            "mode": depth,
            "join": ("f16", "bf16", "tf32").index(element),
            "size": 4 if sums == "f32" else 2,
        }
        head = f"mma.sync.aligned.{shape}.row.col.{sums}.{element}.{element}.{sums}"
        return Row(head, f"{c}d32 {a}s32 {a // 2}s32 {c}s32", "mma", "matrix", fields)

    yield mma("m16n8k4", 4, "tf32", "f32")
    yield mma("m16n8k8", 8, "tf32", "f32")
    for element in ("f16", "bf16"):
        yield mma("m16n8k8", 8, element, "f32")
        yield mma("m16n8k16", 16, element, "f32")
    yield mma("m16n8k8", 8, "f16", "f16")
    yield mma("m16n8k16", 16, "f16", "f16")
    for n in (1, 2, 4):
        fields = {"vector": n, "space": SPACES["shared"]}
        tail = f".sync.aligned.m8n8.x{n}[.trans](.shared|.shared::cta).b16"
        yield Row(f"ldmatrix{tail}", f"{n}d32 A", "ldmatrix", "shared", fields)
        yield Row(f"stmatrix{tail}", f"A {n}s32", "stmatrix", "shared", fields)


def control_rows() -> Iterator[Row]:
    yield Row("bra[.uni]", "L", "bra", "branch")
    yield Row("ret[.uni]", "", "exit", "branch")
    yield Row("exit", "", "exit", "branch")
    yield Row("trap", "", "trap", "other")
    yield Row("nanosleep.u32", "s32", "nothing", "other")
    yield Row("griddepcontrol(.wait|.launch_dependents)", "", "nothing", "other")
