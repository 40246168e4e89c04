"""Counts of small programs against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bench.offline.emulator import A100, H100, V100, CacheGeometry, Counts, Options
from bench.offline.emulator.counts import GEOMETRIES
from tests.bench.offline.emulator.lanes import aligned, kernel, launch

START = "mov.u32 %r1, %tid.x; mov.u32 %r9, %ctaid.x; ld.param.u64 %d1, [a];"
ONE = "mov.u32 %r2, 1;"
COUNT = Options(count=True)


def counts_of(body: str, options: Options = COUNT, threads: int = 32, grid: int = 1) -> Counts:
    data = aligned(np.zeros(1 << 16, np.uint32))
    ptx = kernel(f"{START} {body}", ".param .u64 a", threads=threads)
    return launch(ptx, [data], options, (grid, 1, 1)).counts


def access(stride: int, bytes_per_lane: int = 4, kind: str = "ld.global") -> str:
    vector = {4: "u32 {}", 8: "v2.u32 {{{}, {}}}", 16: "v4.u32 {{{}, {}, {}, {}}}"}
    vector = vector[bytes_per_lane]
    names = [f"%r{2 + k}" for k in range(bytes_per_lane // 4)]
    address = f"mad.wide.u32 %d2, %r1, {stride}, %d1;"
    if kind == "ld.global":
        return f"{address} {kind}.{vector.format(*names)}, [%d2];"
    tail, registers = vector.format(*names).split(" ", 1)
    zeros = "".join(f"mov.u32 {n}, 0;" for n in names)
    return f"{address} {zeros} {kind}.{tail} [%d2], {registers};"


@pytest.mark.parametrize(
    ("stride", "size", "sectors", "lines", "wavefronts", "line_passes"),
    [
        (4, 4, 4, 1, 1, 1),  # neighbours: one line
        (0, 4, 1, 1, 1, 1),  # all the same word
        (32, 4, 32, 8, 8, 8),  # a sector a lane, four of a line at a time
        (128, 4, 32, 32, 32, 32),  # a line a lane, all in the first bank
        (160, 4, 32, 32, 10, 32),  # lines apart, but the banks change
        (16, 16, 16, 4, 4, 4),  # four quarters of a line each
        (128, 16, 32, 32, 32, 32),  # eight lines a quarter
        (8, 8, 8, 2, 2, 2),  # two halves
        (64, 8, 32, 16, 16, 16),  # two lanes a line, banks 0 and 2
    ],
)
@pytest.mark.parametrize("kind", ("ld.global", "st.global"))
def test_sectors_lines_and_wavefronts(stride, size, sectors, lines, wavefronts, line_passes, kind):
    if kind == "st.global" and stride == 0:
        kind = "ld.global"
    counts = counts_of(access(stride, size, kind))
    of = counts.loads if kind == "ld.global" else counts.stores
    if stride == 160:  # 32 lines of 160 bytes: 8 lanes a bank, every second of them on a new line
        wavefronts = max(
            len({lane * 160 // 128 for lane in range(32) if lane * 160 // 32 % 4 == bank})
            for bank in range(4)
        )
    assert (of.requests, of.sectors, of.lines) == (1, sectors, lines)
    assert (of.wavefronts, of.line_passes, of.bytes) == (wavefronts, line_passes, 32 * size)


def test_atomics():
    counts = counts_of(
        "mov.u32 %r2, 1; mad.wide.u32 %d2, %r1, 64, %d1; red.global.add.u32 [%d2], %r2;"
    )
    assert (counts.atomics.requests, counts.atomics.sectors, counts.atomics.lines) == (1, 32, 16)
    assert counts.loads.requests == counts.stores.requests == 0
    assert counts.instructions["atomic"] == 1


@pytest.mark.parametrize(
    ("stride", "size", "wavefronts", "conflicts"),
    [
        (4, 4, 1, 0),
        (8, 4, 2, 1),  # even banks only
        (128, 4, 32, 31),  # one bank
        (132, 4, 1, 0),  # padded
        (0, 4, 1, 0),  # one word for all
        (8, 8, 2, 0),
        (16, 16, 4, 0),
        (32, 16, 8, 4),
    ],
)
def test_shared_memory(stride, size, wavefronts, conflicts):
    vector = {4: "u32 %r3", 8: "v2.u32 {%r3, %r4}", 16: "v4.u32 {%r3, %r4, %r5, %r6}"}[size]
    body = f""".shared .align 16 .b8 all[4736]; mul.lo.u32 %r2, %r1, {stride};
    ld.shared.{vector}, [%r2];"""
    options = Options(count=True, check_initialised=False)
    of = counts_of(body, options).shared_loads
    assert (of.requests, of.wavefronts, of.conflicts) == (1, wavefronts, conflicts)


def test_instructions_by_class_lanes_and_divergence():
    body = """setp.lt.u32 %p1, %r1, 8; @%p1 bra some; add.u32 %r2, %r1, 1; bra done;
    some: cvt.rn.f32.u32 %r2, %r1; ex2.approx.f32 %r2, %r2; add.f32 %r2, %r2, %r2;
    done: shfl.sync.bfly.b32 %r3, %r2, 1, 31, -1; bar.sync 0;"""
    counts = counts_of(body, Options(), threads=64, grid=3)
    assert counts.blocks == 3 and counts.warps == 6
    # warp 0 of a block parts at the branch, warp 1 does not
    assert counts.divergent_branches == 3
    assert counts.instructions == {
        "integer": 3 * (2 + 2),
        "branch": 3 * (2 + 2 + 2),
        "convert": 3,
        "special": 3,
        "float": 3,
        "move": 3 * 2 * 3,
        "shuffle": 6,
        "barrier": 6,
    }
    # 8 lanes ran three instructions by themselves, 24 lanes two
    assert counts.partial_instructions == 3 * 5
    whole = counts.warp_instructions - counts.partial_instructions
    assert counts.lane_instructions == 32 * whole + 3 * (3 * 8 + 2 * 24)
    assert counts.loads is None and counts.caches is None


def test_counts_add_up():
    one, two = counts_of(access(4)), counts_of(access(32))
    both = one + two
    assert both.loads.sectors == 36 and both.blocks == 2
    assert both.instructions["load"] == 2 and both.caches is None
    assert (one + Counts()).loads == one.loads


def caches_of(body: str, grid: int = 1, **more) -> Counts:
    small = {"multiprocessors": 2, "l1_bytes": 4096, "shared_steps": (0,), "reserved_shared": 0}
    small |= {"name": "small", "max_threads": 64, "max_blocks": 2, "l2_bytes": 65536}
    geometry = CacheGeometry(**(small | more))
    return counts_of(body, Options(caches=geometry), grid=grid).caches


def test_a_line_that_is_read_again_is_in_the_first_cache():
    found = caches_of(access(4) + access(4))
    assert (found.l1_read_sectors, found.l1_hit_sectors) == (8, 4) and found.l1_hit_rate == 0.5
    assert (found.l2_read_sectors, found.dram_read_sectors) == (4, 4)
    assert found.dram_read_bytes == 128


def test_what_does_not_fit_the_first_cache_is_in_the_second():
    """64 lines are read twice; the first cache holds 32."""
    body = "".join(access(4).replace("[%d2]", f"[%d2+{128 * k}]") for k in range(64)) * 2
    found = caches_of(body, l1_ways=32)
    assert (found.l1_read_sectors, found.l1_hit_sectors) == (512, 0)
    assert (found.l2_read_sectors, found.l2_read_hit_sectors) == (512, 256)
    assert found.dram_read_sectors == 256
    found = caches_of(body, l1_bytes=16384)
    assert found.l1_hit_sectors == 256 and found.l2_read_sectors == 256


def test_neighbouring_blocks_are_on_different_multiprocessors():
    """Two of them: each reads the line once, whichever of its blocks asks first."""
    found = caches_of(access(4), grid=6)
    assert (found.l1_read_sectors, found.l1_hit_sectors) == (24, 16)
    assert (found.l2_read_sectors, found.l2_read_hit_sectors) == (8, 4)
    assert found.dram_read_sectors == 4


def test_neighbouring_blocks_together():
    """Each multiprocessor holds two blocks; two blocks share a line."""
    body = "shr.u32 %r2, %r9, 1; mad.wide.u32 %d2, %r2, 128, %d1; ld.global.u32 %r3, [%d2];"
    apart = caches_of(body, grid=8)
    together = caches_of(body, grid=8, placement="fill")
    assert apart.l1_read_sectors == together.l1_read_sectors == 8
    assert (apart.l1_hit_sectors, together.l1_hit_sectors) == (0, 4)
    assert (apart.l2_read_sectors, together.l2_read_sectors) == (8, 4)


def test_stores_are_written_back_and_atomics_read():
    found = caches_of(access(4, kind="st.global"))
    assert (found.l2_write_sectors, found.dram_read_sectors, found.dram_write_sectors) == (4, 0, 4)
    found = caches_of(
        "mov.u32 %r2, 1; mad.wide.u32 %d2, %r1, 4, %d1; red.global.add.u32 [%d2], %r2;"
    )
    assert (found.l2_atomic_sectors, found.dram_read_sectors, found.dram_write_sectors) == (4, 4, 4)
    assert found.l1_read_sectors == 0
    after_atomic = access(4) + "mov.u32 %r2, 0; red.global.add.u32 [%d2], %r2;" + access(4)
    found = caches_of(after_atomic, multiprocessors=1)
    assert found.l1_hit_sectors == 0  # the atomic took the line from the first cache


def test_dirty_lines_are_written_when_they_are_replaced():
    """Twice as many lines as the second cache holds, all of them stored to once."""
    body = "".join(
        access(4, kind="st.global").replace("[%d2]", f"[%d2+{128 * k}]") for k in range(64)
    )
    found = caches_of(body, l2_bytes=4096)
    assert found.l2_write_sectors == found.dram_write_sectors == 256


def test_sampled_blocks():
    body = "mad.wide.u32 %d2, %r9, 128, %d1; mov.u32 %r2, 1; st.global.u32 [%d2], %r2;"
    data = aligned(np.zeros(1 << 16, np.uint32))
    ptx = kernel(f"{START} {body}", ".param .u64 a", threads=1)
    blocks = [5, 6, 7, 300]
    for caches in (None, A100):
        data[:] = 0
        result = launch(ptx, [data], Options(blocks=blocks, caches=caches), (400, 1, 1))
        assert np.flatnonzero(data[::32]).tolist() == blocks and result.counts.blocks == 4
    with pytest.raises(ValueError, match="blocks have numbers below 400"):
        launch(ptx, [data], Options(blocks=[400]), (400, 1, 1))


def test_geometries():
    assert set(GEOMETRIES) == {"V100", "A100", "H100"}
    # 128 threads: 16 blocks by threads; 40 registers a thread let 12 in
    assert A100.blocks_together(128, 0) == 16 and A100.blocks_together(128, 0, 40) == 12
    assert V100.blocks_together(1024, 40 << 10) == 2 and H100.blocks_together(128, 100 << 10) == 2
    assert V100.l1_left(2, 40 << 10) == (128 - 96) << 10
    assert A100.l1_left(16, 0) == 192 << 10 and A100.l1_left(4, 1024) == (192 - 8) << 10
