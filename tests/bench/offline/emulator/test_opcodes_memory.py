"""Loads, stores and atomics of every size, vector, space and modifier."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from bench.offline.emulator import Fault, Options, Program
from tests.bench.offline.emulator import formats
from tests.bench.offline.emulator.formats import BF16, F16, F32, F64, Format
from tests.bench.offline.emulator.lanes import aligned, buffer, kernel, launch

TYPES = (*(f"{t}{w}" for w in (8, 16, 32, 64) for t in "bus"), "f32", "f64")
PARAMETERS = ".param .u64 a, .param .u64 b, .param .u64 c"
POINTERS = """
mov.u32 %r1, %tid.x;
ld.param.u64 %d1, [a];
ld.param.u64 %d2, [b];
ld.param.u64 %d3, [c];
"""
SPACES = ("global", "shared", "local", "const")
SCOPES = ("cta", "cluster", "gpu", "sys")
_FILE = {16: "%h", 32: "%r", 64: "%d"}


def names(kind: str, count: int, first: int = 20, wide: int | None = None) -> tuple[str, int]:
    """A vector of registers for a type, and their width."""
    w = wide or max(int(kind.lstrip("busf")), 16)
    parts = [f"{_FILE[w]}{first + k}" for k in range(count)]
    return (parts[0] if count == 1 else "{" + ", ".join(parts) + "}"), w


def noted(head: str) -> str:
    """An opcode with modifiers that this file says it tests."""
    assert head in HEADS, head
    return head


VECTORS = [
    (kind, n)
    for kind in TYPES
    for n in (1, 2, 4, 8)
    if int(kind.lstrip("busf")) * n <= 256 and (n < 8 or int(kind.lstrip("busf")) >= 32)
]
LOADS = [(f"{'.v' + str(n) if n > 1 else ''}.{kind}", kind, n) for kind, n in VECTORS]


@pytest.mark.parametrize(("tail", "kind", "n"), LOADS, ids=lambda v: str(v))
def test_loads_and_stores_of_every_vector(tail, kind, n):
    size = int(kind.lstrip("busf")) // 8 * n
    data = aligned(np.random.default_rng(1).integers(0, 256, 32 * size, dtype=np.uint8))
    vector, _ = names(kind, n)
    for space in ("", ".global"):
        out = aligned(np.zeros_like(data))
        body = f"""{POINTERS}
        mad.wide.u32 %d4, %r1, {size}, %d1; mad.wide.u32 %d5, %r1, {size}, %d2;
        {noted(f"ld{space}{tail}")} {vector}, [%d4]; {noted(f"st{space}{tail}")} [%d5], {vector};"""
        launch(kernel(body, PARAMETERS), [data, out, 0])
        assert (out == data).all()
    out = aligned(np.zeros_like(data))
    body = f"""{POINTERS} mad.wide.u32 %d4, %r1, {size}, %d1; mad.wide.u32 %d5, %r1, {size}, %d2;
    mul.lo.u32 %r2, %r1, {size}; mov.u64 %d6, own;
    ld.global{tail} {vector}, [%d4];
    {noted(f"st.shared{tail}")} [%r2], {vector}; {noted(f"st.local{tail}")} [%d6], {vector};
    {noted(f"ld.shared{tail}")} {vector}, [%r2]; {noted(f"ld.local{tail}")} {vector}, [%d6];
    st.global{tail} [%d5], {vector};"""
    body = f".local .align 32 .b8 own[32]; .shared .align 32 .b8 all[{32 * size}];\n{body}"
    launch(kernel(body, PARAMETERS), [data, out, 0])
    assert (out == data).all()


@pytest.mark.parametrize(("kind", "wide"), [(k, w) for k in TYPES for w in (16, 32, 64)
                                            if k[0] != "f" and int(k[1:]) < w])  # fmt: skip
def test_narrow_values_are_extended(kind, wide):
    w = int(kind[1:])
    data = np.random.default_rng(2).integers(0, 256, 32 * w // 8, dtype=np.uint8)
    out = np.zeros(32, dtype=f"u{wide // 8}")
    name, _ = names(kind, 1, wide=wide)
    body = f"""{POINTERS} mad.wide.u32 %d4, %r1, {w // 8}, %d1;
    mad.wide.u32 %d5, %r1, {wide // 8}, %d2; ld.global.{kind} {name}, [%d4];
    st.global.b{wide} [%d5], {name};"""
    launch(kernel(body, PARAMETERS), [data, out, 0])
    expected = data.view(f"{'i' if kind[0] == 's' else 'u'}{w // 8}").astype(np.int64)
    assert (out == (expected & ((1 << wide) - 1 if wide < 64 else -1)).astype(out.dtype)).all()


@pytest.mark.parametrize("kind", TYPES)
def test_parameters(kind):
    w = int(kind.lstrip("busf"))
    name, wide = names(kind, 1)
    value = 0x8877665544332211 & (1 << w) - 1
    out = np.zeros(1, dtype=f"u{wide // 8}")
    head = noted(f"ld.param.{kind}")
    body = f"ld.param.u64 %d1, [a]; {head} {name}, [s+{w // 8}]; st.global.b{wide} [%d1], {name};"
    ptx = kernel(body, f".param .u64 a, .param .align 8 .b8 s[{w // 4}]")
    block = bytes(w // 8) + value.to_bytes(w // 8, "little")
    view = buffer(out)
    Program.decode(ptx).run((1, 1, 1), [view, block], [view])
    expected = value - (1 << w) if kind[0] == "s" and value >> (w - 1) else value
    assert int(out[0]) == expected & (1 << wide) - 1


@pytest.mark.parametrize("n", (2, 4, 8))
def test_vectors_of_parameters(n):
    out = aligned(np.zeros(n, np.uint32))
    head, (vector, _) = noted(f"ld.param.v{n}.u32"), names("u32", n)
    body = f"ld.param.u64 %d1, [a]; {head} {vector}, [s]; st.global.v{n}.u32 [%d1], {vector};"
    ptx = kernel(body, f".param .u64 a, .param .align 32 .b8 s[{4 * n}]")
    view, block = buffer(out), bytes(range(4 * n))
    Program.decode(ptx).run((1, 1, 1), [view, block], [view])
    assert out.tobytes() == block
    with pytest.raises(ValueError, match=f"s has {4 * n} bytes, not 7"):
        Program.decode(ptx).run((1, 1, 1), [view, bytes(7)], [view])


MODIFIED = [
    "ld.volatile.global.u32", "ld.relaxed.gpu.global.u32", "ld.acquire.sys.global.u32",
    "ld.weak.global.u32", "ld.global.ca.u32", "ld.global.cg.u32", "ld.global.cs.u32",
    "ld.global.lu.u32", "ld.global.cv.u32", "ld.global.nc.u32", "ld.const.u32",
    "ld.relaxed.cta.global.u32", "ld.relaxed.cluster.global.u32",
    "ld.global.L1::evict_normal.u32", "ld.global.L1::evict_unchanged.u32",
    "ld.global.L1::evict_first.u32", "ld.global.nc.L1::evict_last.u32",
    "ld.global.nc.L1::no_allocate.L2::128B.u32", "ld.global.L2::64B.u32", "ld.global.L2::256B.u32",
    "ld.global.L1::evict_first.L2::cache_hint.u32", "ld.global.L2::evict_first.u32",
    "ld.global.L2::evict_last.u32", "ld.global.L2::evict_normal.u32",
]  # fmt: skip
STORES = [
    "st.volatile.global.u32", "st.relaxed.gpu.global.u32", "st.release.sys.global.u32",
    "st.weak.global.u32", "st.global.wb.u32", "st.global.cg.u32", "st.global.cs.u32",
    "st.global.wt.u32", "st.global.L1::evict_last.u32", "st.global.L1::no_allocate.u32",
    "st.relaxed.cta.global.u32", "st.relaxed.cluster.global.u32", "st.global.L1::evict_first.u32",
    "st.global.L1::evict_first.L2::cache_hint.u32", "st.global.L1::evict_normal.u32",
    "st.global.L1::evict_unchanged.u32", "st.global.L2::64B.u32", "st.global.L2::128B.u32",
    "st.global.L2::256B.u32", "st.global.L2::evict_first.u32", "st.global.L2::evict_last.u32",
    "st.global.L2::evict_normal.u32",
]  # fmt: skip
PREFETCHES = (
    "prefetch.global.L1",
    "prefetch.global.L2",
    "prefetch.L1",
    "prefetch.local.L2",
    "prefetchu.L1",
)
POLICIES = [
    f"createpolicy.fractional.L2::{name}{second}.b64"
    for name in ("evict_first", "evict_last", "evict_normal", "evict_unchanged")
    for second in ("", ".L2::evict_first", ".L2::evict_unchanged")
]


@pytest.mark.parametrize("head", [*MODIFIED, *STORES])
def test_modifiers_that_change_no_value(head):
    data, out = np.arange(32, dtype=np.uint32), np.zeros(32, np.uint32)
    load = head if head.startswith("ld") else "ld.global.u32"
    store = head if head.startswith("st") else "st.global.u32"
    noted(head)
    hint = ", %d9" if "cache_hint" in head else ""
    body = f"""{POINTERS} mad.wide.u32 %d4, %r1, 4, %d1; mad.wide.u32 %d5, %r1, 4, %d2;
    {noted("createpolicy.fractional.L2::evict_first.b64")} %d9, 1.0;
    {load} %r2, [%d4]{hint if load == head else ""};
    {store} [%d5], %r2{hint if store == head else ""};"""
    launch(kernel(body, PARAMETERS), [data, out, 0])
    assert (out == data).all()


@pytest.mark.parametrize("head", [*POLICIES, *PREFETCHES])
def test_hints_do_nothing(head):
    operands = "%d9" if "policy" in noted(head) else "[%d1]"
    launch(kernel(f"{POINTERS} {head} {operands};", PARAMETERS), [np.zeros(8, np.uint8), 0, 0])


def test_generic_addresses_of_every_space():
    """A pointer to shared and local memory, through generic loads and stores and back."""
    out = np.zeros((32, 4), np.uint32)
    body = """.shared .align 4 .b8 all[128]; .local .align 4 .b8 own[8];
    ld.param.u64 %d1, [a]; mov.u32 %r1, %tid.x; mad.wide.u32 %d1, %r1, 16, %d1;
    mov.u64 %d2, all; mad.wide.u32 %d2, %r1, 4, %d2; cvta.shared.u64 %d3, %d2;
    mov.u64 %d4, own; cvta.local.u64 %d5, %d4;
    add.u32 %r2, %r1, 100; add.u32 %r3, %r1, 200;
    st.u32 [%d3], %r2; st.u32 [%d5], %r3;
    cvta.to.shared.u64 %d6, %d3; cvta.to.local.u64 %d7, %d5;
    ld.shared.u32 %r4, [%d6]; ld.local.u32 %r5, [%d7]; ld.u32 %r6, [%d3]; ld.u32 %r7, [%d5];
    cvta.global.u64 %d8, %d1; cvta.to.global.u64 %d9, %d8; cvta.const.u64 %d9, %d9;
    cvta.to.const.u64 %d9, %d9;
    st.global.v4.u32 [%d9], {%r4, %r5, %r6, %r7};"""
    launch(kernel(body, ".param .u64 a"), [out])
    lane = np.arange(32)
    assert (out == np.stack([lane + 100, lane + 200] * 2, 1)).all()


def test_narrow_addresses_convert():
    out = np.zeros(2, np.uint32)
    body = """ld.param.u64 %d1, [a]; mov.u32 %r1, 12; cvta.to.shared.u32 %r2, %r1;
    cvta.shared.u32 %r4, %r2;
    cvta.to.global.u32 %r3, %r2; cvta.global.u32 %r3, %r3; cvta.to.local.u32 %r3, %r3;
    cvta.const.u32 %r3, %r3; cvta.to.const.u32 %r3, %r3;
    cvta.local.u32 %r5, %r3; st.global.v2.u32 [%d1], {%r2, %r3};"""
    launch(kernel(body, ".param .u64 a", threads=1), [out])
    assert out.tolist() == [12, 12]


def test_variables_of_the_module_hold_their_first_values():
    out = np.zeros(4, np.uint32)
    module = ".const .align 4 .u32 table[3] = {7, 0xFFFFFFFF, 9};"
    module += ".global .align 1 .b8 text[2] = {65, 66};"
    body = """ld.param.u64 %d1, [a]; ld.const.u32 %r1, [table+4]; mov.u64 %d2, table;
    ld.global.nc.u32 %r2, [%d2+8]; ld.global.u8 %r3, [text]; ld.global.u8 %r4, [text+1];
    st.global.v4.u32 [%d1], {%r1, %r2, %r3, %r4};"""
    launch(kernel(body, ".param .u64 a", threads=1, module=module), [out])
    assert out.tolist() == [0xFFFFFFFF, 9, 65, 66]
    with pytest.raises(Fault, match="0 bytes after the end of variables of the module"):
        launch(kernel(body.replace("[text+1]", "[text+2]"), ".param .u64 a", 1, module), [out])


# Atomics ---------------------------------------------------------------------------------------


def integer_atomics() -> list[tuple[str, str, int]]:
    kinds = {
        "add": ("u32", "s32", "u64", "s64"),
        "min": ("u32", "s32", "u64", "s64"),
        "max": ("u32", "s32", "u64", "s64"),
        "and": ("b32", "b64"),
        "or": ("b32", "b64"),
        "xor": ("b32", "b64"),
        "exch": ("b32", "b64"),
        "inc": ("u32",),
        "dec": ("u32",),
    }
    return [(name, kind, int(kind[1:])) for name, all_kinds in kinds.items() for kind in all_kinds]


def after(name: str, kind: str, old: int, b: int) -> int:
    w = int(kind[1:])

    def typed(x: int) -> int:
        return x - (1 << w) if kind[0] == "s" and x >> (w - 1) else x

    results = {
        "add": old + b,
        "min": min(typed(old), typed(b)),
        "max": max(typed(old), typed(b)),
        "and": old & b,
        "or": old | b,
        "xor": old ^ b,
        "exch": b,
        "inc": 0 if old >= b else old + 1,
        "dec": b if old == 0 or old > b else old - 1,
    }
    return results[name] & (1 << w) - 1


@pytest.mark.parametrize("space", ("", ".global", ".shared"))
@pytest.mark.parametrize(("name", "kind", "w"), integer_atomics())
def test_integer_atomics(name, kind, w, space):
    """32 lanes on four places, one after another: every old value is some lane's result."""
    generator = np.random.default_rng(w)
    start = np.frombuffer(generator.bytes(4 * w // 8), f"u{w // 8}").copy()
    operands = np.frombuffer(generator.bytes(32 * w // 8), f"u{w // 8}").copy()
    if name in ("inc", "dec"):
        start[:], operands[:] = (0, 3, 5, 200), np.arange(32) % 6
    old, data = np.zeros(32, operands.dtype), start.copy()
    r, size = ("%r" if w == 32 else "%d"), w // 8
    setup = f"""{POINTERS} and.b32 %r2, %r1, 3; mul.lo.u32 %r3, %r2, {size};
    mad.wide.u32 %d4, %r2, {size}, %d1; mad.wide.u32 %d5, %r1, {size}, %d2;
    mad.wide.u32 %d6, %r1, {size}, %d3; ld.global.b{w} {r}20, [%d5];"""
    place = "%d4"
    if space == ".shared":
        setup = f""".shared .align 8 .b8 all[64]; .reg .pred %q; {setup} setp.lt.u32 %q, %r1, 4;
        @%q ld.global.b{w} {r}21, [%d4]; @%q st.shared.b{w} [%r3], {r}21; bar.warp.sync -1;"""
        place = "%r3"
    heads = [noted(f"atom{space}.{name}.{kind}")]
    if name != "exch":
        heads.append(noted(f"red{space}.{name}.{kind}"))
    for head in heads:
        data[:] = start
        takes = f"{r}22, " if head.startswith("atom") else ""
        keep = f"st.global.b{w} [%d6], {r}22;" if takes else ""
        body = f"{setup} {head} {takes}[{place}], {r}20; {keep}"
        if space == ".shared":
            body += f"bar.warp.sync -1; @%q ld.shared.b{w} {r}21, [%r3];"
            body += f"@%q st.global.b{w} [%d4], {r}21;"
        launch(kernel(body, PARAMETERS), [data, operands, old])
        expected, expected_old = list(map(int, start)), []
        for lane in range(32):
            expected_old.append(expected[lane % 4])
            expected[lane % 4] = after(name, kind, expected[lane % 4], int(operands[lane]))
        assert data.tolist() == expected
        assert not takes or old.tolist() == expected_old


@pytest.mark.parametrize("w", (16, 32, 64))
def test_compare_and_swap(w):
    data = np.array([5, 6, 7, 8], f"u{w // 8}")
    old = np.zeros(4, data.dtype)
    r = _FILE[w]
    body = f"""{POINTERS}
    mad.wide.u32 %d4, %r1, {w // 8}, %d1; mad.wide.u32 %d5, %r1, {w // 8}, %d2;
    mov.b{w} {r}20, 6; mov.b{w} {r}21, 99;
    {noted(f"atom.global.cas.b{w}")} {r}22, [%d4], {r}20, {r}21; st.global.b{w} [%d5], {r}22;"""
    launch(kernel(body, PARAMETERS, threads=4), [data, old, 0])
    assert data.tolist() == [5, 99, 7, 8] and old.tolist() == [5, 6, 7, 8]


REAL_ATOMICS = [
    *((F32, f"{v}.f32", n) for v, n in (("", 1), (".v2", 2), (".v4", 4))),
    (F64, ".f64", 1),
]
for short in (F16, BF16):
    for v, n in (("", 1), (".v2", 2), (".v4", 4), (".v8", 8)):
        REAL_ATOMICS.append((short, f".noftz{v}.{short.name}", n))
        if n < 8:
            REAL_ATOMICS.append((short, f".noftz{v}.{short.name}x2", 2 * n))
REAL_ATOMICS = [
    (name, f, tail, n)
    for name in ("add", "min", "max")
    for f, tail, n in REAL_ATOMICS
    if name == "add" or f not in (F32, F64)
]


@pytest.mark.parametrize(
    ("name", "f", "tail", "n"), REAL_ATOMICS, ids=lambda v: getattr(v, "name", v)
)
def test_real_atomics(name, f: Format, tail, n):
    """One lane a place, so that the result is one operation; NaN, infinities, -0 among them."""
    a, b = formats.operands(f, 2)
    a, b = (np.array(x[: len(x) // n * n], f"u{f.width // 8}") for x in (a, b))
    lanes = len(a) // n // 32 * 32
    a, b = aligned(a[: lanes * n]), aligned(b[: lanes * n])
    per_register = 2 if tail.endswith("x2") else 1
    kind, size = f"b{f.width * per_register}", n * f.width // 8
    vector, _ = names(kind, n // per_register)
    v = f".v{n // per_register}" if n > per_register else ""
    load = f"ld.global{v}.{kind}"
    taken, _ = names(kind, n // per_register, first=40)
    for operation in ("red", "atom"):
        head = noted(f"{operation}.relaxed.gpu.global.{name}{tail}")
        result = f"{taken}, " if operation == "atom" else ""
        keep = f"st.global{v}.{kind} [%d6], {taken};" if result else ""
        body = f"""{POINTERS} mov.u32 %r2, %ctaid.x; mad.lo.u32 %r1, %r2, 32, %r1;
        mad.wide.u32 %d4, %r1, {size}, %d1; mad.wide.u32 %d5, %r1, {size}, %d2;
        mad.wide.u32 %d6, %r1, {size}, %d3;
        {load} {vector}, [%d5]; {head} {result}[%d4], {vector}; {keep}"""
        data, old = aligned(a), aligned(np.zeros_like(a))
        launch(kernel(body, PARAMETERS), [data, b, old], grid=(lanes // 32, 1, 1))
        check_atomics(name, f, a, b, data)
        assert operation == "red" or (old == a).all()


def check_atomics(name, f, a, b, data) -> None:
    for x, y, got in zip(map(int, a), map(int, b), data, strict=True):
        p, q = f.value(x), f.value(y)
        if name == "add":
            flush = f.flushed if f is F32 else float
            expected = flush(formats.add(f, flush(p), flush(q)))
        elif p != p or q != q:
            expected = q if p != p else p
        else:
            pick = min if name == "min" else max
            expected = pick(p, q, key=lambda v: (v, str(v)[0] != "-"))
        if f is F64 and expected != expected:
            assert f.value(int(got)) != f.value(int(got))
        else:
            assert int(got) == f.bits(expected), (hex(x), hex(y))


def test_atomics_return_what_was_there_in_every_element():
    data, old = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)
    body = f"""{POINTERS} mad.wide.u32 %d4, %r1, 16, %d1; mad.wide.u32 %d5, %r1, 16, %d2;
    mov.f32 %r20, 1.0; mov.f32 %r21, 2.0; mov.f32 %r22, 3.0; mov.f32 %r23, 4.0;
    {noted("atom.global.gpu.acq_rel.add.v4.f32")} {{%r30, %r31, %r32, %r33}}, [%d4],
    {{%r20, %r21, %r22, %r23}};
    st.global.v4.f32 [%d5], {{%r30, %r31, %r32, %r33}};"""
    launch(kernel(body, PARAMETERS), [data, old, 0])
    assert (old == np.arange(128)).all() and (data == np.arange(128) + np.arange(128) % 4 + 1).all()


def test_shared_float_sums_keep_subnormal_numbers():
    """And global ones flush them."""
    data, out = np.array([F32.bits(2.0**-140)], np.uint32), np.zeros(1, np.uint32)
    body = f""".shared .align 4 .b8 all[4]; {POINTERS} mov.u32 %r2, 0; mov.f32 %r3, 0f00000100;
    st.shared.u32 [%r2], %r3; {noted("red.shared.add.f32")} [%r2], %r3; ld.shared.u32 %r4, [%r2];
    st.global.u32 [%d2], %r4; red.global.add.f32 [%d1], %r3;"""
    launch(kernel(body, PARAMETERS, threads=1), [data, out, 0])
    assert out[0] == 0x200 and data[0] == 0


@pytest.mark.parametrize("order", ("relaxed", "acquire", "release", "acq_rel"))
@pytest.mark.parametrize("scope", SCOPES)
def test_atomics_of_every_order_and_scope(order, scope):
    data = np.zeros(1, np.uint32)
    heads = (f"atom.{order}.{scope}.global.add.u32", f"red.{order}.{scope}.global.add.u32")
    body = f"{POINTERS} {noted(heads[0])} %r2, [%d1], 1; {noted(heads[1])} [%d1], 2;"
    launch(kernel(body, PARAMETERS), [data, 0, 0])
    assert data[0] == 96


def test_hints_of_atomics():
    data = np.zeros(1, np.uint32)
    heads = (
        "atom.global.add.L2::cache_hint.u32",
        "red.shared::cta.add.u32",
        "atom.shared::cta.add.u32",
        "red.global.add.L2::cache_hint.u32",
    )
    body = f""".shared .align 4 .b8 all[4]; {POINTERS}
    createpolicy.fractional.L2::evict_last.b64 %d9, 1.0;
    {noted(heads[0])} %r2, [%d1], 1, %d9; mov.u32 %r3, 0; st.shared::cta.u32 [%r3], %r3;
    {noted(heads[1])} [%r3], 1; {noted(heads[2])} %r4, [%r3], 1; ld.shared::cta.u32 %r5, [%r3];
    {noted(heads[3])} [%d1], 1, %d9;"""
    launch(kernel(body, PARAMETERS, threads=1), [data, 0, 0], Options(check_races=False))
    assert data[0] == 2


def _heads() -> set[str]:
    spaces = ("", ".global", ".shared", ".local")
    heads = {f"{op}{space}{tail}" for op in ("ld", "st") for space in spaces for tail, *_ in LOADS}
    heads |= {f"ld.param.{kind}" for kind in TYPES} | {f"ld.param.v{n}.u32" for n in (2, 4, 8)}
    heads |= {*MODIFIED, *STORES, *POLICIES, *PREFETCHES}
    for name, w in product(SPACES, (32, 64)):
        heads |= {f"cvta.{name}.u{w}", f"cvta.to.{name}.u{w}"}
    for name, kind, _ in integer_atomics():
        for space in ("", ".global", ".shared"):
            heads |= {f"{op}{space}.{name}.{kind}" for op in ("atom", "red")}
    heads |= {f"atom.global.cas.b{w}" for w in (16, 32, 64)}
    for name, _, tail, _ in REAL_ATOMICS:
        heads |= {f"{op}.relaxed.gpu.global.{name}{tail}" for op in ("atom", "red")}
    for order, scope in product(("relaxed", "acquire", "release", "acq_rel"), SCOPES):
        heads |= {f"{op}.{order}.{scope}.global.add.u32" for op in ("atom", "red")}
    return heads | {
        "atom.global.gpu.acq_rel.add.v4.f32",
        "red.shared.add.f32",
        "atom.global.add.L2::cache_hint.u32",
        "red.shared::cta.add.u32",
        "atom.shared::cta.add.u32",
        "red.global.add.L2::cache_hint.u32",
        "st.shared::cta.u32",
        "ld.shared::cta.u32",
    }


HEADS = _heads()
