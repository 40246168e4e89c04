"""Planted faults of every kind are found, and their twins without the fault run through."""

from __future__ import annotations

import numpy as np
import pytest

from bench.offline.emulator import Buffer, Fault, Options, Program, differences_by_order
from tests.bench.offline.emulator.lanes import aligned, buffer, kernel, launch

START = "mov.u32 %r1, %tid.x; ld.param.u64 %d1, [a];"
A = ".param .u64 a"


def fault_of(
    ptx: str, arguments: list, match: str, options: Options | None = None, **more
) -> Fault:
    with pytest.raises(Fault, match=match) as caught:
        launch(ptx, arguments, options, **more)
    return caught.value


# Bounds and alignment --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "name"),
    [
        ("ld.global.u32 %r2, [%d2{}];", "load"),
        ("mov.u32 %r2, 0; st.global.u32 [%d2{}], %r2;", "store"),
        ("mov.u32 %r2, 0; red.global.add.u32 [%d2{}], %r2;", "atomic"),
        ("mov.u32 %r2, 0; ld.u32 %r2, [%d2{}];", "generic load"),
    ],
)
def test_one_element_beyond_either_end(access, name):
    text = f"{START} mad.wide.u32 %d2, %r1, 4, %d1; {access}"
    data = np.zeros(32, np.uint32)
    launch(kernel(text.format(""), A), [data])
    fault = fault_of(kernel(text.format("+4"), A), [data], "out of bounds.* 0 bytes after the end")
    assert (fault.lane, fault.argument, fault.offset) == (31, "a", 128)
    assert fault.address == data.ctypes.data + 128
    fault = fault_of(
        kernel(text.format("+-4"), A), [data], "out of bounds.* 4 bytes before the start"
    )
    assert fault.lane == 0 and "[%d2+-4]" in fault.text


def test_a_vector_that_begins_within_and_ends_beyond():
    data = aligned(np.zeros(5, np.uint32))
    text = f"{START} ld.global.v2.u32 {{%r2, %r3}}, [%d1+%s];"
    launch(kernel(text.replace("%s", "8"), A, threads=1), [data])
    fault_of(kernel(text.replace("%s", "16"), A, threads=1), [data], "byte 16 of a")


def test_masked_lanes_may_have_wild_addresses():
    """Only those that take part count, by guard and by branch."""
    data = np.ones(16, np.uint32)
    wild = "shl.b32 %r3, %r1, 26; mad.wide.u32 %d2, %r3, 64, %d1; setp.eq.u32 %p1, %r1, 0;"
    launch(kernel(f"{START} {wild} @%p1 ld.global.u32 %r2, [%d2];", A), [data])
    launch(kernel(f"{START} {wild} @!%p1 bra done; ld.global.u32 %r2, [%d2]; done:", A), [data])
    swapped = f"{START} {wild} @!%p1 ld.global.u32 %r2, [%d2];"
    fault_of(kernel(swapped, A), [data], r"out of bounds.*4294967232 bytes after the end of a")


def test_a_buffer_does_not_run_into_its_neighbour():
    """Two arguments that touch in memory are still two."""
    both = np.zeros(64, np.uint32)
    first, second = both[:32], both[32:]
    text = f"{START} ld.param.u64 %d3, [b]; mad.wide.u32 %d2, %r1, 4, %d1;"
    parameters = f"{A}, .param .u64 b"
    fits = f"{text} ld.global.u32 %r2, [%d2]; st.global.u32 [%d3], %r1;"
    launch(kernel(fits, parameters, threads=32), [first, second], Options(check_races=False))
    fault = fault_of(kernel(fits, parameters, threads=33), [first, second], "after the end of a")
    assert fault.address == second.ctypes.data


def test_pointers_that_are_read_from_memory_reach_buffers():
    """And nothing else."""
    data = np.arange(32, dtype=np.uint32)
    table = np.array([data.ctypes.data, data.ctypes.data + 4 * 32], np.uint64)
    text = f"{START} ld.global.u64 %d2, [%d1+%s]; ld.global.u32 %r2, [%d2+8];"
    program = Program.decode(kernel(text.replace("%s", "0"), A, threads=1))
    views = [buffer(table, "table"), buffer(data, "data")]
    program.run((1, 1, 1), [table.ctypes.data], views)
    wrong = Program.decode(kernel(text.replace("%s", "8"), A, threads=1))
    with pytest.raises(Fault, match="which is in no buffer"):
        wrong.run((1, 1, 1), [table.ctypes.data], views)


@pytest.mark.parametrize("offset", (1, 2, 4, 8))
def test_misaligned(offset):
    data = aligned(np.zeros(64, np.uint8))
    bits = 16 * offset
    vector = {16: "u16 %h2", 32: "u32 %r2", 64: "u64 %d2", 128: "v2.u64 {%d2, %d3}"}[bits]
    ptx = kernel(f"{START} ld.global.{vector}, [%d1+{{}}];", A, threads=1)
    launch(ptx.replace("{}", str(2 * offset)), [data])
    fault = fault_of(ptx.replace("{}", str(offset)), [data], "misaligned")
    assert fault.offset == offset
    stored = kernel(f"{START} mov.u16 %h2, 1; st.shared.u16 [all+1], %h2;", A)
    stored = stored.replace(START, f".shared .align 4 .b8 all[8]; {START}")
    fault_of(stored, [data], "misaligned.*byte 1 of shared memory")


def test_shared_and_local_memory_have_bounds():
    text = ".shared .align 4 .b8 all[64]; .local .align 4 .b8 own[8]; mov.u32 %r1, %tid.x;"
    shared = f"{text} shl.b32 %r2, %r1, 2; st.shared.u32 [%r2], %r1;"
    launch(kernel(shared, threads=16), [])
    fault = fault_of(kernel(shared, threads=17), [], "0 bytes after the end of shared memory")
    assert fault.lane == 16
    launch(kernel(shared, threads=17), [], shared_bytes=4)  # what the launch gives lies behind
    local = f"{text} mov.u64 %d1, own; st.local.u32 [%d1+%s], %r1;"
    launch(kernel(local.replace("%s", "4")), [])
    fault_of(kernel(local.replace("%s", "8")), [], "local memory")


def test_writes_where_the_caller_said_that_nothing_is_written():
    data = np.zeros(32, np.uint32)
    program = Program.decode(kernel(f"{START} st.global.u32 [%d1], %r1;", A, threads=1))
    for written in (None, True):
        view = buffer(data, "a", written=written)
        program.run((1, 1, 1), [view], [view])
    view = buffer(data, "a", written=False)
    with pytest.raises(Fault, match="write to a read-only buffer"):
        program.run((1, 1, 1), [view], [view])


# What nothing was written to --------------------------------------------------------------------


def test_output_memory_is_not_read_before_it_is_written():
    data = np.zeros(32, np.uint32)
    text = f"{START} mad.wide.u32 %d2, %r1, 4, %d1; {{}} ld.global.u32 %r2, [%d2];"
    flags = np.zeros(128, np.uint8)
    view = buffer(data, "a", initialised=flags)
    right = Program.decode(kernel(text.format("st.global.u32 [%d2], %r1;"), A))
    right.run((1, 1, 1), [view], [view])
    assert flags.all()
    flags[:], wrong = 1, Program.decode(kernel(text.format(""), A))
    wrong.run((1, 1, 1), [view], [view])
    flags[19] = 0  # one byte is enough
    with pytest.raises(Fault, match=r"uninitialised memory.*lane 4, byte 16 of a"):
        wrong.run((1, 1, 1), [view], [view])
    wrong.run((1, 1, 1), [view], [view], Options(check_initialised=False))
    atomic = Program.decode(kernel(f"{START} red.global.add.u32 [%d1], %r1;", A))
    with pytest.raises(Fault, match="uninitialised memory"):
        whole = Buffer(data.ctypes.data, 128, "a", initialised=False)
        atomic.run((1, 1, 1), [whole], [whole])


def test_shared_memory_is_not_read_before_it_is_written():
    text = ".shared .align 4 .b8 all[8]; mov.u32 %r1, %tid.x; {} ld.shared.u32 %r2, [all+4];"
    launch(kernel(text.format("st.shared.u32 [all+4], %r1;"), threads=1), [])
    fault_of(kernel(text.format("")), [], "uninitialised memory.*byte 4 of shared memory")
    half = text.format("cvt.u16.u32 %h1, %r1; st.shared.u16 [all+4], %h1;")
    fault_of(kernel(half, threads=1), [], "uninitialised memory")
    # what one block wrote is not there for the next
    once = """mov.u32 %r3, %ctaid.x; setp.eq.u32 %p1, %r3, 0; @%p1 st.shared.u32 [all+4], %r1;"""
    fault = fault_of(kernel(text.format(once), threads=1), [], "uninitialised", grid=(2, 1, 1))
    assert fault.block == (1, 0, 0)


@pytest.mark.parametrize(
    "use",
    [
        "st.global.u32 [%d1], %r2;",
        "mad.wide.u32 %d2, %r2, 0, %d1; ld.global.u32 %r3, [%d2];",
        "setp.eq.u32 %p1, %r2, 7; @%p1 bra done; done:",
        "red.global.add.u32 [%d1], %r2;",
        "add.u32 %r3, %r2, 1; xor.b32 %r3, %r3, %r3; st.global.u32 [%d1], %r3;",
        "shfl.sync.idx.b32 %r3, %r2, 0, 31, -1; st.global.u32 [%d1], %r3;",
    ],
)
def test_registers_are_not_used_before_they_are_written(use):
    data = np.zeros(32, np.uint32)
    launch(kernel(f"{START} mov.u32 %r2, 0; {use}", A, threads=1).replace("-1;", "1;"), [data])
    # one lane only has a value
    some = f"{START} setp.lt.u32 %p2, %r1, 1; @%p2 mov.u32 %r2, 0; {use}"
    lane = 0 if "shfl" in use else 1
    fault = fault_of(
        kernel(some.replace("r2, 0, 31", "r2, 5, 31"), A), [data], "uninitialised register"
    )
    assert fault.lane == lane


def test_an_undefined_value_that_is_not_chosen_does_no_harm():
    data = np.zeros(32, np.uint32)
    text = f"""{START} setp.lt.u32 %p1, %r1, {{}}; @%p1 mov.u32 %r2, 5;
    selp.u32 %r3, %r2, 9, %p2; mad.wide.u32 %d2, %r1, 4, %d1; st.global.u32 [%d2], %r3;"""
    text = text.replace("selp", "setp.lt.u32 %p2, %r1, 16; selp")
    launch(kernel(text.format(16), A), [data])
    assert data.tolist() == [5] * 16 + [9] * 16
    fault_of(kernel(text.format(15), A), [data], "uninitialised register.*lane 15")


# Barriers --------------------------------------------------------------------------------------

SHARED = ".shared .align 4 .b8 all[512]; mov.u32 %r1, %tid.x;"


def test_a_barrier_that_part_of_a_warp_reaches():
    text = f"{SHARED} setp.lt.u32 %p1, %r1, {{}}; @!%p1 bra done; bar.sync 0; done: bar.sync 0;"
    for whole in (0, 64):  # nobody or all
        launch(kernel(text.format(whole), threads=64), [])
    fault = fault_of(kernel(text.format(16), threads=64), [], "divergent barrier")
    assert fault.warp == 0
    guarded = f"{SHARED} setp.lt.u32 %p1, %r1, 5; @%p1 bar.sync 0;"
    fault_of(kernel(guarded), [], "divergent barrier.*lane 5")


def test_warps_at_different_barriers():
    text = f"""{SHARED} setp.lt.u32 %p1, %r1, {{}}; @%p1 bra one; bar.sync 0; bra done;
    one: bar.sync 0; done:"""
    launch(kernel(text.format(64), threads=64), [])
    fault = fault_of(kernel(text.format(32), threads=64), [], "divergent barrier")
    assert fault.other_line and fault.other_line != fault.line


def test_a_barrier_that_never_completes():
    text = f"{SHARED} setp.lt.u32 %p1, %r1, 32; @%p1 bra done; bar.sync 1, {{}}; done:"
    launch(kernel(text.format(32), threads=64), [])
    fault_of(kernel(text.format(64), threads=64), [], "barrier never completes")
    # warps that have left are not waited for
    launch(kernel(f"{SHARED} setp.lt.u32 %p1, %r1, 32; @%p1 exit; bar.sync 0;", threads=64), [])


def test_a_warp_barrier_whose_lanes_cannot_come():
    text = """mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 16; @%p1 bra one; bar.warp.sync {};
    bra done; one: bar.warp.sync {}; done:"""
    launch(kernel(text.format("0xffff0000", "0xffff")), [])
    fault_of(kernel(text.format("-1", "-1")), [], "divergent barrier")


# Orders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "depends"), [("u32", False), ("f32", True)])
def test_sums_that_depend_on_the_order_of_blocks(kind, depends):
    """Integer sums do not; float sums do."""
    data = np.zeros(1, np.uint32)
    text = f"""{START} mov.u32 %r2, %ctaid.x; mad.lo.u32 %r3, %r2, 32, %r1; mul.lo.u32 %r3, %r3, 77;
    cvt.rn.f32.u32 %r4, %r3; mul.f32 %r4, %r4, 0.3712; red.global.add.{kind} [%d1], %r4;"""
    program = Program.decode(kernel(text, A))
    view = buffer(data, "sums")
    found = differences_by_order(lambda o: program.run((40, 1, 1), [view], [view], o), [view])
    assert bool(found) == depends
    if depends:
        assert found[0].name == "sums" and "depend on the order of blocks" in str(found[0])
    assert data[0] != 0  # the forward run's result


def test_faults_can_be_collected():
    data = np.zeros(16, np.uint32)
    text = f"""{START} mad.wide.u32 %d2, %r1, 4, %d1; ld.global.u32 %r2, [%d2];
    st.global.u32 [%d2+2], %r1; setp.eq.u32 %p1, %r1, 0; @%p1 st.global.u32 [%d2], %r1;"""
    result = launch(kernel(text, A), [data], Options(collect=True))
    kinds = [f.kind for f in result.faults]
    assert kinds == ["out of bounds", "out of bounds", "misaligned"]
    assert result.faults[0].count == 1 and result.faults[0].lane == 16


@pytest.mark.parametrize(
    ("pack", "use"),
    [
        ("mov.b64 %d2, {%r2, %r3};", "mov.b64 {%r4, _}, %d2;"),
        ("mov.b64 %d2, {%r2, %r3};", "mul.f32x2 %d3, %d2, %d2; mov.b64 {%r4, _}, %d3;"),
        ("mov.b64 %d2, {%r2, %r3};", "mov.u64 %d3, %d2; cvt.u32.u64 %r4, %d3;"),
        ("mov.b32 %r5, {%h2, %h3};", "add.f16x2 %r5, %r5, %r5; mov.b32 {%h4, _}, %r5; {}"),
        ("cvt.rn.f16x2.f32 %r5, %r3, %r2;", "mov.b32 {%h4, _}, %r5; {}"),
        ("mov.b64 %d2, {%r2, %r3};", "selp.b64 %d3, %d2, 0, 1; mov.b64 {%r4, _}, %d3;"),
        ("mov.b32 %r5, {%h2, %h3};", "or.b32 %r5, %r5, 9; mov.b32 {%h4, _}, %r5; {}"),
    ],
)
def test_a_number_packed_with_nothing(pack, use):
    """Half of a register is undefined, as compilers leave it; only what uses that half is wrong."""
    data = np.zeros(32, np.uint32)
    use = use.replace("{}", "cvt.u32.u16 %r4, %h4;").replace("0, 1;", "0, %p1;")
    text = f"{START} setp.eq.u32 %p1, %r1, %r1; mov.u32 %r2, 5; mov.u16 %h2, 5; {pack}"
    launch(kernel(f"{text} {use} st.global.u32 [%d1], %r4;", A), [data])
    other = use.replace("{%r4, _}", "{_, %r4}").replace("{%h4, _}", "{_, %h4}")
    other = other.replace("cvt.u32.u64 %r4, %d3;", "mov.b64 {_, %r4}, %d3;")
    fault_of(
        kernel(f"{text} {other} st.global.u32 [%d1], %r4;", A), [data], "uninitialised register"
    )
