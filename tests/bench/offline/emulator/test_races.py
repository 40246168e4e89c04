"""Planted races within a block and between blocks are found; what a barrier orders is not one."""

from __future__ import annotations

import numpy as np
import pytest

from bench.offline.emulator import Fault, Options
from tests.bench.offline.emulator.lanes import kernel, launch

START = "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b];"
SHARED = f".shared .align 4 .b8 all[512]; {START} shl.b32 %r3, %r1, 2; xor.b32 %r4, %r3, 0x80;"
PARAMETERS = ".param .u64 a, .param .u64 b"
WRITE, READ = "st.shared.u32 [%r3], %r1;", "ld.shared.u32 %r5, [%r4];"
WITHIN = [
    (WRITE, READ),
    (f"{WRITE} bar.sync 0; ld.shared.u32 %r5, [%r3];", "st.shared.u32 [%r4], %r2;"),
    (WRITE, "st.shared.u32 [%r4], %r2;"),
    (WRITE, "red.shared.add.u32 [%r4], %r1;"),
    (f"{WRITE} bar.sync 0; red.shared.add.u32 [%r3], %r1;", READ),
]
"""What one warp does and another does to the same places, which a barrier has to part."""

OWN, SUM = "st.global.u32 [%d3], %r2;", "red.global.add.u32 [%d1], %r2;"
BETWEEN = [
    (OWN, "st.global.u32 [%d1], %r2;"),
    (f"ld.global.u32 %r4, [%d3]; {OWN}", f"ld.global.u32 %r4, [%d1]; {OWN}"),
    (SUM, f"{SUM} ld.global.u32 %r4, [%d1];"),
    (SUM, f"{SUM} {OWN}"),
]
"""What blocks may do, each to its own place or atomically; and what they may not."""

ORDERS = ("forward", "reverse", "random", "lockstep")


def run(body: str, order: str = "forward", threads: int = 64, grid: int = 1, **options) -> object:
    a, b = np.zeros(256, np.uint32), np.zeros(256, np.uint32)
    ptx = kernel(body, PARAMETERS, threads=threads)
    return launch(ptx, [a, b], Options(order=order, **options), (grid, 1, 1))


def race_of(body: str, kind: str, order: str = "forward", **more) -> Fault:
    with pytest.raises(Fault, match=f"race {kind}") as caught:
        run(body, order, **more)
    assert caught.value.is_race
    return caught.value


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("barrier", ("bar.sync 0;", "bar.sync 3, 64;"))
@pytest.mark.parametrize(("first", "second"), WITHIN)
def test_between_warps_of_a_block(first, second, barrier, order):
    add = "add.u32 %r2, %r2, 99;"
    run(f"{SHARED} {add} {first} {barrier} {second}", order)
    # the reader may come first, and then it reads what nothing was written to
    text = f"{SHARED} {add} {first} {second}"
    fault = race_of(text, "within a block", order, check_initialised=False)
    assert fault.text in text and fault.other_text in text
    assert fault.argument == "shared memory"


@pytest.mark.parametrize("order", ORDERS)
def test_a_warp_that_loops_past_a_missing_second_barrier(order):
    """One barrier a turn is not enough where the turn's end overwrites what others still read."""
    loop = f"""{SHARED} mov.u32 %r6, 0;
    again: add.u32 %r5, %r1, %r6; st.shared.u32 [%r3], %r5; bar.sync 0; ld.shared.u32 %r7, [%r4];
    {{}} add.u32 %r6, %r6, 1; setp.lt.u32 %p1, %r6, 3; @%p1 bra again;"""
    run(loop.format("bar.sync 0;"), order)
    race_of(loop.format(""), "within a block", order)


def test_a_barrier_of_other_warps_orders_nothing():
    """Warps 0 and 1 meet at a barrier; warp 2 reads what warp 0 wrote."""
    body = f"""{SHARED} setp.lt.u32 %p1, %r1, 32; setp.lt.u32 %p2, %r1, 64;
    @%p1 st.shared.u32 [%r3], %r1; @!%p2 bra third; bar.sync 1, 64; {{}} bra done;
    third: {{}} and.b32 %r5, %r3, 0x7f; ld.shared.u32 %r6, [%r5]; done:"""
    run(body.format("bar.sync 2, 96;", "bar.sync 2, 96;"), "forward", threads=96)
    race_of(body.format("", ""), "within a block", "forward", threads=96)


def test_global_memory_within_a_block():
    body = f"""{START} mad.wide.u32 %d3, %r1, 4, %d1; xor.b32 %r3, %r1, 32;
    mad.wide.u32 %d4, %r3, 4, %d1; st.global.u32 [%d3], %r1; {{}} ld.global.u32 %r4, [%d4];"""
    run(body.format("bar.sync 0;"))
    fault = race_of(body.format(""), "within a block")
    assert fault.argument == "a"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("mine", "shared"), BETWEEN)
def test_between_blocks(mine, shared, order):
    place = f"{START} add.u32 %r2, %r2, 1; mov.u32 %r5, %ctaid.x; mad.wide.u32 %d3, %r5, 4, %d1;"
    run(f"{place} {mine}", order, threads=1, grid=4)
    fault = race_of(f"{place} {shared}", "between blocks", order, threads=1, grid=4)
    assert fault.other_block != fault.block and fault.argument == "a"


def test_blocks_that_write_the_same_value_do_no_harm():
    result = run(f"{START} mov.u32 %r3, 7; st.global.u32 [%d1], %r3;", threads=1, grid=5)
    assert result.same_value_stores == 4


def test_lanes_of_one_store_that_disagree():
    run(f"{START} mov.u32 %r3, 7; st.global.u32 [%d1], %r3;", threads=32)
    race_of(f"{START} st.global.u32 [%d1], %r1;", "within a warp", threads=32)


@pytest.mark.parametrize("kind", ("u8", "u16"))
def test_neighbouring_bytes_are_not_the_same_place(kind):
    """Blocks that share a word but not a byte of it."""
    size = int(kind[1:]) // 8
    body = f"""{START} mad.wide.u32 %d3, %r2, {{}}, %d1; add.u32 %r5, %r2, 1;
    ld.global.u32 %r4, [%d2]; mad.wide.u32 %d4, %r2, 4, %d1; st.global.u32 [%d4+128], %r5;
    cvt.u16.u32 %h1, %r5; st.global.{kind} [%d3], %h1;"""
    run(body.format(size), threads=1, grid=4)
    race_of(body.format(0), "between blocks", threads=1, grid=4)


def test_what_overlaps_is_watched_as_one():
    """Two arguments that are views of the same bytes."""
    data = np.zeros(8, np.uint32)
    body = f"""{START} mad.wide.u32 %d3, %r2, 4, %d1; mad.wide.u32 %d4, %r2, 4, %d2;
    ld.global.u32 %r3, [%d4]; add.u32 %r3, %r3, %r2; st.global.u32 [%d3], %r2;"""
    ptx = kernel(body, PARAMETERS, threads=1)
    launch(ptx, [data, data.copy()], grid=(4, 1, 1))
    launch(ptx, [data, data[:]], grid=(4, 1, 1))
    with pytest.raises(Fault, match="race between blocks"):
        launch(ptx, [data[1:], data], grid=(4, 1, 1))


def test_races_are_not_looked_for_where_it_is_not_asked():
    body = f"{START} add.u32 %r2, %r2, 1; st.global.u32 [%d1], %r2;"
    run(body, threads=1, grid=3, check_races=False)


def test_all_races_are_collected_once_a_pair_of_places():
    body = f"{START} st.global.u32 [%d1], %r2; add.u32 %r2, %r2, 9; st.global.u32 [%d1+4], %r2;"
    result = run(body, threads=1, grid=4, collect=True)
    assert [f.count for f in result.faults] == [3, 3]
    assert all(f.line == f.other_line for f in result.faults)


@pytest.mark.parametrize("order", ORDERS)
def test_the_first_access_after_a_barrier_is_after_it(order):
    """One warp writes at once, and nothing orders the other warp's read behind it."""
    body = f"""{SHARED} and.b32 %r5, %r3, 0x7c; setp.lt.u32 %p1, %r1, 32; bar.sync 0;
    @%p1 st.shared.u32 [%r5], %r1; {{}} @!%p1 ld.shared.u32 %r6, [%r5];"""
    run(body.format("bar.sync 0;"), order)
    race_of(body.format(""), "within a block", order, check_initialised=False)
