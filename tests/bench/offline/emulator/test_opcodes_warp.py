"""What the lanes of a warp and the warps of a block do together; matrices; control."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.offline.emulator import Fault, Options
from tests.bench.offline.emulator import formats
from tests.bench.offline.emulator.formats import BF16, F16, F32, TF32
from tests.bench.offline.emulator.lanes import kernel, launch

FULL = 0xFFFFFFFF


def on_lanes(body: str, *inputs: np.ndarray, results: int = 1, threads: int = 32) -> np.ndarray:
    """Run with inputs in %r10, %r11, ... of each lane; %r20, %r21, ... come back."""
    out = np.zeros((threads, results), np.uint32)
    names = [f"p{k}" for k in range(len(inputs) + 1)]
    loads = "".join(
        f"ld.param.u64 %d1, [p{k}]; mad.wide.u32 %d1, %r1, 4, %d1; ld.global.u32 %r{10 + k}, [%d1];"
        for k in range(len(inputs))
    )
    stores = "".join(f"st.global.u32 [%d2+{4 * k}], %r{20 + k};" for k in range(results))
    text = f"""mov.u32 %r1, %tid.x; {loads} ld.param.u64 %d2, [p{len(inputs)}];
    mad.wide.u32 %d2, %r1, {4 * results}, %d2; {body} {stores}"""
    parameters = ", ".join(f".param .u64 {n}" for n in names)
    launch(kernel(text, parameters, threads=threads), [*inputs, out])
    return out if results > 1 else out[:, 0]


def lanes(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 32, 32, dtype=np.uint32)


def shuffled(mode: str, a: np.ndarray, b: int, c: int) -> tuple[list[int], list[int]]:
    """By the PTX ISA's pseudo code."""
    values, inside = [], []
    for lane in range(32):
        segment, clamp = c >> 8 & 31, c & 31
        last, first = (lane & segment) | (clamp & ~segment & 31), lane & segment
        if mode == "up":
            j = lane - (b & 31)
            ok = j >= last
        elif mode == "down":
            j = lane + (b & 31)
            ok = j <= last
        elif mode == "bfly":
            j = lane ^ (b & 31)
            ok = j <= last
        else:
            j = first | (b & 31 & ~segment)
            ok = j <= last
        values.append(int(a[j if ok else lane]))
        inside.append(int(ok))
    return values, inside


@pytest.mark.parametrize("mode", ("up", "down", "bfly", "idx"))
@pytest.mark.parametrize("width", (32, 16, 8, 4, 1))
@pytest.mark.parametrize("b", (0, 1, 3, 4, 16, 31, 32 + 2))
def test_shfl(mode, width, b):
    a = lanes()
    c = ((32 - width) << 8) | (0 if mode == "up" else 0x1F)
    body = f"""shfl.sync.{mode}.b32 %r20|%p1, %r10, {b}, {c}, -1; selp.u32 %r21, 1, 0, %p1;
    shfl.sync.{mode}.b32 %r22, %r10, {b}, {c}, -1;"""
    got = on_lanes(body, a, results=3)
    values, inside = shuffled(mode, a, b, c)
    assert got[:, 0].tolist() == values and got[:, 1].tolist() == inside
    assert (got[:, 2] == got[:, 0]).all()


def test_shfl_of_part_of_a_warp():
    """Half of the lanes exchange; what a lane outside would give is not defined."""
    a = lanes()
    body = """mov.u32 %r20, 0; setp.lt.u32 %p1, %r1, 16; @!%p1 bra done;
    shfl.sync.bfly.b32 %r20, %r10, 1, 0x1f, 0xffff; done:"""
    assert on_lanes(body, a)[:16].tolist() == [int(a[k ^ 1]) for k in range(16)]
    beyond = body.replace("%r10, 1", "%r10, 16")
    with pytest.raises(Fault, match="uninitialised register"):
        on_lanes(beyond, a)
    with pytest.raises(Fault, match="lane does not take part"):
        on_lanes(body.replace("0xffff", "0x7fff"), a)


def test_votes():
    for a in (np.zeros(32), np.ones(32), np.arange(32) % 3 == 0):
        a = a.astype(np.uint32)
        heads = "".join(
            f"vote.sync.{mode}.pred %p{k + 2}, {'!' * negated}%p1, -1;"
            f"selp.u32 %r{20 + k}, 1, 0, %p{k + 2};"
            for k, (mode, negated) in enumerate(
                (m, n) for m in ("all", "any", "uni") for n in (0, 1)
            )
        )
        body = f"setp.ne.u32 %p1, %r10, 0; {heads} vote.sync.ballot.b32 %r26, %p1, -1;"
        got = on_lanes(body, a, results=7)
        yes, every, some = a.astype(bool), bool(a.all()), bool(a.any())
        expected = [every, not some, some, not every, every or not some, every or not some]
        expected.append(sum(1 << k for k in range(32) if yes[k]))
        assert (got == np.array(expected, np.uint32)).all()


@pytest.mark.parametrize("w", (32, 64))
def test_match(w):
    a = (np.arange(32) % 5).astype(np.uint32)
    r = "%r10" if w == 32 else "%d9"
    wide = "cvt.u64.u32 %d9, %r10; shl.b64 %d9, %d9, 33;" if w == 64 else ""
    body = f"""{wide} match.any.sync.b{w} %r20, {r}, -1;
    match.all.sync.b{w} %r21|%p1, {r}, -1; selp.u32 %r22, 1, 0, %p1;"""
    got = on_lanes(body, a, results=3)
    masks = [sum(1 << k for k in range(32) if a[k] == x) for x in a]
    assert got[:, 0].tolist() == masks and not got[:, 1:].any()
    same = on_lanes(body, np.full(32, 9, np.uint32), results=3)
    assert (same == [FULL, FULL, 1]).all()


REDUX_F32 = [
    f"redux.sync.{name}{magnitude}{nan}.f32"
    for name in ("min", "max")
    for magnitude in ("", ".abs")
    for nan in ("", ".NaN")
]


@pytest.mark.parametrize("head", ("add.u32", "add.s32", "min.u32", "min.s32", "max.u32", "max.s32",
                                  "and.b32", "or.b32", "xor.b32"))  # fmt: skip
def test_redux(head):
    a = lanes()
    name, kind = head.split(".")
    functions = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and,
                 "or": np.bitwise_or, "xor": np.bitwise_xor}  # fmt: skip
    typed = a.view(np.int32) if kind == "s32" else a
    expected = functions[name].reduce(typed, dtype=typed.dtype).astype(typed.dtype)
    got = on_lanes(f"redux.sync.{head} %r20, %r10, -1;", a)
    assert (got.view(typed.dtype) == expected).all()


@pytest.mark.parametrize("head", REDUX_F32)
def test_redux_of_floats(head):
    """Signed zeros are ordered; what is not a number is left out, but for .NaN."""
    numbers = np.random.default_rng(1).normal(size=32).astype(np.float32)
    zeros = np.where(np.arange(32) % 2, np.float32(-0.0), np.float32(0.0))
    some = np.where(np.arange(32) % 3, numbers, np.float32("nan"))
    infinite = np.where(np.arange(32) == 5, np.float32("-inf"), some)
    for given in (numbers, zeros, some, infinite, np.full(32, np.nan, np.float32)):
        got = on_lanes(f"{head} %r20, %r10, -1;", given.view(np.uint32))
        known = [float(x) for x in (np.abs(given) if ".abs" in head else given) if x == x]
        if not known or (len(known) < 32 and ".NaN" in head):
            assert (got == 0x7FFFFFFF).all()
            continue
        pick = min if ".min" in head else max
        best = pick(known, key=lambda x: (x, math.copysign(1, x)))
        assert (got == np.float32(best).view(np.uint32)).all()


def test_elect_and_activemask():
    body = """mov.u32 %r20, 0; mov.u32 %r21, 0; mov.u32 %r22, 0; setp.gt.u32 %p1, %r1, 4;
    @!%p1 bra done; activemask.b32 %r20; elect.sync %r21|%p2, 0xffffffe0; selp.u32 %r22, 1, 0, %p2;
    done:"""
    got = on_lanes(body, results=3)
    assert (got[5:, 0] == FULL & ~31).all() and (got[5:, 1] == 5).all() and not got[:5].any()
    assert got[5:, 2].tolist() == [1] + [0] * 26


# Barriers --------------------------------------------------------------------------------------

BARRIERS = ("bar.sync 0;", "bar.cta.sync 0;", "barrier.sync 0;", "barrier.sync.aligned 3;",
            "barrier.cta.sync.aligned 1;", "bar.sync 2, 128;", "barrier.cta.sync 0;")  # fmt: skip


@pytest.mark.parametrize("barrier", BARRIERS)
@pytest.mark.parametrize("order", ("forward", "reverse", "random", "lockstep"))
def test_barriers_let_warps_exchange_through_shared_memory(barrier, order):
    out = np.zeros(128, np.uint32)
    body = f""".shared .align 4 .b8 all[512]; mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2;
    ld.param.u64 %d1, [a]; mad.wide.u32 %d1, %r1, 4, %d1; xor.b32 %r3, %r2, 0x1fc;
    st.shared.u32 [%r2], %r1; {barrier} ld.shared.u32 %r4, [%r3]; st.global.u32 [%d1], %r4;"""
    launch(kernel(body, ".param .u64 a", threads=128), [out], Options(order=order))
    assert out.tolist() == list(range(127, -1, -1))


ARRIVALS = (
    "bar.arrive",
    "bar.cta.arrive",
    "barrier.arrive",
    "barrier.cta.arrive.aligned",
    "barrier.arrive.aligned",
)


@pytest.mark.parametrize("arrive", ARRIVALS)
def test_one_warp_arrives_and_the_other_waits(arrive):
    """The first warp writes and goes on; the second waits for it."""
    out = np.zeros(64, np.uint32)
    body = f""".shared .align 4 .b8 all[128]; mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 31;
    shl.b32 %r2, %r2, 2; ld.param.u64 %d1, [a]; mad.wide.u32 %d1, %r1, 4, %d1; mov.u32 %r4, 7;
    setp.gt.u32 %p1, %r1, 31; @%p1 bra second;
    st.shared.u32 [%r2], %r1; {arrive} 1, 64; bra done;
    second: bar.sync 1, 64; ld.shared.u32 %r4, [%r2];
    done: st.global.u32 [%d1], %r4;"""
    for order in ("forward", "reverse", "random"):
        launch(kernel(body, ".param .u64 a", threads=64), [out], Options(order=order))
        assert out.tolist() == [7] * 32 + list(range(32))


def test_fences_and_pauses_change_nothing():
    orders = ("", ".sc", ".acq_rel", ".acquire", ".release", ".relaxed")
    fences = [f"fence{o}.{s};" for o in orders for s in ("cta", "cluster", "gpu", "sys")]
    others = ["membar.cta;", "membar.gl;", "membar.sys;", "nanosleep.u32 100;", "bar.warp.sync -1;",
              "griddepcontrol.wait;", "griddepcontrol.launch_dependents;"]  # fmt: skip
    body = "mov.u32 %r20, 3;" + "".join(fences + others)
    assert (on_lanes(body) == 3).all()


def test_lanes_that_part_wait_for_one_another_at_warp_barriers():
    """The branch that lies later in the code is waited for by the one that lies earlier."""
    body = """mov.u32 %r20, 1; setp.lt.u32 %p1, %r1, 7; @%p1 bra later;
    join: bar.warp.sync -1; shfl.sync.idx.b32 %r20, %r20, 3, 0x1f, -1; bra done;
    later: mov.u32 %r20, 42; add.u32 %r20, %r20, 1; bra join; done:"""
    assert (on_lanes(body) == 43).all()


# Control ---------------------------------------------------------------------------------------


def test_loops_run_as_often_as_each_lane_wants():
    body = """mov.u32 %r20, 0; mov.u32 %r2, 0;
    loop: setp.ge.u32 %p1, %r2, %r1; @%p1 bra.uni done; add.u32 %r2, %r2, 1;
    add.u32 %r20, %r20, %r2; bra loop; done:"""
    assert on_lanes(body).tolist() == [k * (k + 1) // 2 for k in range(32)]


@pytest.mark.parametrize("leave", ("ret", "ret.uni", "exit"))
def test_lanes_leave_early(leave):
    out = np.zeros(32, np.uint32)
    body = f"""mov.u32 %r1, %tid.x; ld.param.u64 %d1, [a]; mad.wide.u32 %d1, %r1, 4, %d1;
    setp.gt.u32 %p1, %r1, 9; @%p1 {leave}; mov.u32 %r2, 5; st.global.u32 [%d1], %r2;"""
    launch(kernel(body, ".param .u64 a"), [out])
    assert out.tolist() == [5] * 10 + [0] * 22


def test_trap_and_endless_loops_are_faults():
    with pytest.raises(Fault, match="trap in k"):
        launch(kernel("trap;"), [])
    with pytest.raises(Fault, match="endless in k"):
        launch(kernel("again: bra again;"), [], Options(max_steps=1000))


def test_special_registers():
    axes = [f"{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"]
    masks = [f"lanemask_{m}" for m in ("eq", "lt", "le", "gt", "ge")]
    names = [*axes, "laneid", "warpid", "nwarpid", *masks, "smid", "total_smem_size"]
    threads, grid = (5, 4, 3), (2, 3, 2)
    count = 60
    out = np.zeros((12, count, len(names)), np.uint32)
    moves = "".join(f"mov.u32 %r{20 + k}, %{name};" for k, name in enumerate(names))
    stores = "".join(f"st.global.u32 [%d1+{4 * k}], %r{20 + k};" for k in range(len(names)))
    body = f""".shared .align 4 .b8 all[24]; {moves}
    mad.lo.u32 %r1, %r28, %r30, %r27; mad.lo.u32 %r1, %r1, %r29, %r26; mul.lo.u32 %r1, %r1, {count};
    mad.lo.u32 %r2, %r22, 4, %r21; mad.lo.u32 %r2, %r2, 5, %r20; add.u32 %r1, %r1, %r2;
    ld.param.u64 %d1, [a]; mad.wide.u32 %d1, %r1, {4 * len(names)}, %d1; {stores}"""
    launch(kernel(body, ".param .u64 a", threads=threads), [out], grid=grid)
    for block in range(12):
        index = (block % 2, block // 2 % 3, block // 6)
        for thread in range(count):
            lane = thread % 32
            expected = [thread % 5, thread // 5 % 4, thread // 20, 5, 4, 3, *index, 2, 3, 2, lane,
                        thread // 32, 2, 1 << lane, (1 << lane) - 1, (2 << lane) - 1,
                        FULL & ~((2 << lane) - 1), FULL & ~((1 << lane) - 1), 0, 24]  # fmt: skip
            assert out[block, thread].tolist() == expected


@pytest.mark.parametrize("head", ("mov.u32", "mov.b32", "mov.u64", "mov.b64", "mov.s64"))
def test_clocks_go_on(head):
    name, r = ("%clock", "%r3") if head.endswith("32") else ("%clock64", "%d9")
    narrow = "" if head.endswith("32") else "cvt.u32.u64 %r3, %d9;"
    body = f"{head} {r}, {name}; {narrow} mov.u32 %r20, %r3; {head} {r}, {name}; {narrow}"
    body += "sub.u32 %r20, %r3, %r20;"
    assert (on_lanes(body) > 0).all()


# Matrices --------------------------------------------------------------------------------------


def fragments(matrix: np.ndarray, rows: int, per_register: int) -> np.ndarray:
    """A [rows, depth] operand of bits as registers [number, 32], as the PTX ISA draws them."""
    depth = matrix.shape[1]
    span = 4 * per_register
    out = np.zeros((rows // 8 * (depth // span), 32), np.uint32)
    for r in range(rows):
        for k in range(depth):
            number = k // span * (rows // 8) + r // 8
            lane = r % 8 * 4 + k % span // per_register
            shift = 16 * (k % per_register) if per_register == 2 else 0
            out[number, lane] |= np.uint32(int(matrix[r, k]) << shift)
    return out


MMA = [
    ("m16n8k4", TF32, 4, "f32"),
    ("m16n8k8", TF32, 8, "f32"),
    ("m16n8k8", F16, 8, "f32"),
    ("m16n8k8", BF16, 8, "f32"),
    ("m16n8k16", F16, 16, "f32"),
    ("m16n8k16", BF16, 16, "f32"),
    ("m16n8k8", F16, 8, "f16"),
    ("m16n8k16", F16, 16, "f16"),
]


@pytest.mark.parametrize(("shape", "f", "depth", "sums"), MMA, ids=lambda v: getattr(v, "name", v))
def test_mma(shape, f, depth, sums):
    generator = np.random.default_rng(depth)
    c_format = F32 if sums == "f32" else F16

    def draw(target: formats.Format, *size: int) -> tuple[np.ndarray, np.ndarray]:
        values = generator.standard_normal(size)
        bits = np.vectorize(lambda x: target.bits(target.rounded(formats.Fraction(float(x)))))(
            values
        )
        return bits, np.vectorize(target.value)(bits)

    (a_bits, a), (b_bits, b), (c_bits, c) = (
        draw(f, 16, depth),
        draw(f, 8, depth),
        draw(c_format, 16, 8),
    )
    per_register = 1 if f is TF32 else 2
    parts = [fragments(a_bits, 16, per_register), fragments(b_bits, 8, per_register)]
    c_registers = np.zeros((4 if sums == "f32" else 2, 32), np.uint32)
    for lane in range(32):
        for k in range(4):
            bits = int(c_bits[lane // 4 + k // 2 * 8, lane % 4 * 2 + k % 2])
            if sums == "f32":
                c_registers[k, lane] = bits
            else:
                c_registers[k // 2, lane] |= np.uint32(bits << 16 * (k % 2))
    inputs = np.concatenate([*parts, c_registers])
    out = np.zeros((len(c_registers), 32), np.uint32)
    registers = [f"%r{20 + k}" for k in range(len(inputs))]
    loads = "".join(f"ld.global.u32 {r}, [%d1+{128 * k}];" for k, r in enumerate(registers))
    stores = "".join(f"st.global.u32 [%d2+{128 * k}], %r{50 + k};" for k in range(len(out)))
    at, vectors = 0, ["{" + ", ".join(f"%r{50 + k}" for k in range(len(out))) + "}"]
    for number in (len(parts[0]), len(parts[1]), len(out)):
        vectors.append("{" + ", ".join(registers[at : at + number]) + "}")
        at += number
    head = f"mma.sync.aligned.{shape}.row.col.{sums}.{f.name}.{f.name}.{sums}"
    body = f"""mov.u32 %r1, %tid.x; ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b];
    mad.wide.u32 %d1, %r1, 4, %d1; mad.wide.u32 %d2, %r1, 4, %d2; {loads}
    {head} {", ".join(vectors)}; {stores}"""
    launch(kernel(body, ".param .u64 a, .param .u64 b"), [inputs, out])
    exact = a @ b.T + c
    for lane in range(32):
        for k in range(4):
            register = int(out[k if sums == "f32" else k // 2, lane])
            bits = register if sums == "f32" else register >> 16 * (k % 2) & 0xFFFF
            value = exact[lane // 4 + k // 2 * 8, lane % 4 * 2 + k % 2]
            spacing = 2.0 ** (1 - c_format.precision)
            assert abs(c_format.value(bits) - value) <= 0.51 * spacing * max(abs(value), 1e-3)


def test_mma_reads_only_the_upper_bits_of_tf32():
    """The lower 13 bits of a float32 operand do not count."""
    body = """mov.u32 %r2, 0f3F801FFF; mov.u32 %r3, 0f3F800000; mov.u32 %r4, 0;
    mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%r20, %r21, %r22, %r23}, {%r2, %r2}, {%r3},
    {%r4, %r4, %r4, %r4};"""
    assert (on_lanes(body) == F32.bits(4.0)).all()


@pytest.mark.parametrize("n", (1, 2, 4))
@pytest.mark.parametrize("trans", ("", ".trans"))
@pytest.mark.parametrize("space", (".shared", ".shared::cta"))
def test_matrices_are_loaded_and_stored(n, trans, space):
    """Eight rows of 16 bytes a matrix; lane l holds row l / 4, columns 2 (l mod 4) and the next."""
    data = np.arange(n * 64, dtype=np.uint16)
    out, back = np.zeros((n, 32), np.uint32), np.zeros_like(data)
    vector = "{" + ", ".join(f"%r{20 + k}" for k in range(n)) + "}"
    keep = "".join(f"st.global.u32 [%d2+{128 * k}], %r{20 + k};" for k in range(n))
    body = f""".shared .align 16 .b8 from[{128 * n}]; .shared .align 16 .b8 to[{128 * n}];
    mov.u32 %r1, %tid.x; ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b]; ld.param.u64 %d3, [c];
    mad.wide.u32 %d2, %r1, 4, %d2; setp.lt.u32 %p1, %r1, {8 * n}; shl.b32 %r2, %r1, 4;
    mad.wide.u32 %d4, %r1, 16, %d1; mad.wide.u32 %d5, %r1, 16, %d3;
    @%p1 ld.global.v4.u32 {{%r4, %r5, %r6, %r7}}, [%d4];
    @%p1 st.shared.v4.u32 [%r2], {{%r4, %r5, %r6, %r7}}; bar.sync 0;
    ldmatrix.sync.aligned.m8n8.x{n}{trans}{space}.b16 {vector}, [%r2]; {keep}
    add.u32 %r3, %r2, {128 * n};
    stmatrix.sync.aligned.m8n8.x{n}{trans}{space}.b16 [%r3], {vector}; bar.sync 0;
    @%p1 ld.shared.v4.u32 {{%r4, %r5, %r6, %r7}}, [%r3];
    @%p1 st.global.v4.u32 [%d5], {{%r4, %r5, %r6, %r7}};"""
    parameters = ".param .u64 a, .param .u64 b, .param .u64 c"
    launch(kernel(body, parameters), [data, out, back])
    matrices = data.reshape(n, 8, 8)
    if trans:
        matrices = matrices.transpose(0, 2, 1)
    assert (out == np.ascontiguousarray(matrices).reshape(n, 64).view(np.uint32)).all()
    assert (back == data).all()


HEADS = {f"shfl.sync.{m}.b32" for m in ("up", "down", "bfly", "idx")}
HEADS |= {f"vote.sync.{m}" for m in ("all.pred", "any.pred", "uni.pred", "ballot.b32")}
HEADS |= {f"match.{m}.sync.b{w}" for m in ("any", "all") for w in (32, 64)}
HEADS |= {f"redux.sync.{m}.{t}" for m in ("add", "min", "max") for t in ("u32", "s32")}
HEADS |= set(REDUX_F32)
HEADS |= {f"redux.sync.{m}.b32" for m in ("and", "or", "xor")}
HEADS |= {b.split()[0] for b in BARRIERS}
HEADS |= {f"fence{o}.{s}" for o in ("", ".sc", ".acq_rel", ".acquire", ".release", ".relaxed")
          for s in ("cta", "cluster", "gpu", "sys")}  # fmt: skip
HEADS |= {f"mma.sync.aligned.{s}.row.col.{c}.{f.name}.{f.name}.{c}" for s, f, _, c in MMA}
HEADS |= {
    f"{op}.sync.aligned.m8n8.x{n}{t}{s}.b16"
    for op in ("ldmatrix", "stmatrix")
    for n in (1, 2, 4)
    for t in ("", ".trans")
    for s in (".shared", ".shared::cta")
}
HEADS |= {
    "elect.sync", "activemask.b32", "bar.arrive", "bar.cta.arrive", "barrier.arrive",
    "barrier.cta.arrive.aligned", "membar.cta", "membar.gl", "membar.sys", "nanosleep.u32",
    "bar.warp.sync", "griddepcontrol.wait", "griddepcontrol.launch_dependents", "bra", "bra.uni",
    "ret", "ret.uni", "exit", "trap", "mov.u32", "mov.b32", "mov.u64", "mov.b64", "mov.s64",
}  # fmt: skip
