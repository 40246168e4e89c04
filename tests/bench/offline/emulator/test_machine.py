"""Whole small programs: arguments, buffers, grids, loops, faults of memory."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from bench.offline.emulator import Buffer, DecodeError, Fault, Options, Program
from tests.bench.offline.emulator.lanes import buffer, kernel, launch

COPY = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry copy(.param .u64 from, .param .u64 to, .param .u32 n)
.reqntid 64
{
  .reg .pred %p<2>; .reg .b32 %r<6>; .reg .b64 %rd<6>; .reg .f32 %f<2>;
  ld.param.u64 %rd1, [from];
  ld.param.u64 %rd2, [to];
  ld.param.u32 %r1, [n];
  mov.u32 %r2, %ctaid.x;
  mov.u32 %r3, %tid.x;
  mad.lo.s32 %r4, %r2, 64, %r3;
  setp.lt.s32 %p1, %r4, %r1;
  mul.wide.s32 %rd3, %r4, 4;
  add.s64 %rd4, %rd1, %rd3;
  add.s64 %rd5, %rd2, %rd3;
  @%p1 ld.global.f32 %f1, [%rd4];
  @%p1 st.global.f32 [%rd5], %f1;
  ret;
}
"""


def run_copy(n: int, given: int, options: Options | None = None) -> np.ndarray:
    program = Program.decode(COPY, 0)
    a, b = np.arange(given, dtype=np.float32), np.zeros(given, np.float32)
    program.run(
        (4, 1, 1),
        [a.ctypes.data, b.ctypes.data, n],
        [buffer(a, "from"), buffer(b, "to", initialised=False)],
        options,
    )
    return b


def test_copies_what_is_asked_for():
    b = run_copy(200, 220)
    assert (b[:200] == np.arange(200)).all() and (b[200:] == 0).all()


def test_one_element_too_many_is_out_of_bounds():
    with pytest.raises(Fault, match="0 bytes after the end of from") as caught:
        run_copy(201, 200)
    fault = caught.value
    assert (fault.kind, fault.kernel, fault.argument) == ("out of bounds", "copy", "from")
    assert (fault.block, fault.warp, fault.lane) == ((3, 0, 0), 0, 8)
    assert (
        "ld.global.f32" in fault.text
        and fault.line == COPY[: COPY.index("@%p1 ld")].count("\n") + 1
    )


def test_what_is_not_emulated_is_named():
    with pytest.raises(DecodeError, match=r"line 10: 'frobnicate.u64 .*the opcode frobnicate"):
        Program.decode(COPY.replace("ld.param.u64 %rd2", "frobnicate.u64 %rd2"), 0)
    with pytest.raises(DecodeError, match=r"ld with the modifier \.odd is not emulated"):
        Program.decode(COPY.replace("ld.global.f32", "ld.global.odd.f32"), 0)
    with pytest.raises(DecodeError, match="%rd3 has 64 bits, 32 expected"):
        Program.decode(COPY.replace("setp.lt.s32 %p1, %r4", "setp.lt.s32 %p1, %rd3"), 0)


@pytest.mark.parametrize("kind", ("u32", "u8"))
def test_buffers_beyond_two_gigabytes_take_room_only_where_they_are_touched(kind):
    """Three of six blocks a GiB apart, at offsets of more than 32 bits, races watched."""
    no_reserve = 0x4000  # Linux
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    memory = mmap.mmap(-1, 6 << 30, flags=flags)
    array = np.frombuffer(memory, np.uint8)
    body = f"""mov.u32 %r1, %ctaid.x; mov.u32 %r2, %tid.x; ld.param.u64 %d1, [a];
    mul.wide.u32 %d2, %r1, 0x40000000; add.s64 %d3, %d1, %d2; mad.wide.u32 %d3, %r2, 4, %d3;
    add.u32 %r3, %r1, %r2; st.global.{kind} [%d3], %r3; {{}} ld.global.{kind} %r4, [%d3];"""
    program = Program.decode(kernel(body.format(""), ".param .u64 a"), 0)
    view = buffer(array, "large", initialised=False)
    program.run((6, 1, 1), [view], [view], Options(blocks=[0, 2, 5]))
    for block in (0, 2, 5):
        first = array[block << 30 : (block << 30) + 128].view(np.uint32)
        assert first.tolist() == [block + k for k in range(32)]
    shifted = Program.decode(kernel(body.format("add.s64 %d3, %d3, 4;"), ".param .u64 a"), 0)
    with pytest.raises(Fault, match=rf"uninitialised memory.*byte {(5 << 30) + 128} of large"):
        shifted.run((6, 1, 1), [view], [view], Options(blocks=[5]))


def test_arguments_that_do_not_fit():
    program = Program.decode(COPY, 0)
    a = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="copy takes 3 arguments, 4 were given"):
        program.run((1, 1, 1), [0, 0, 0, 0], [])
    with pytest.raises(ValueError, match="at least one block along each axis"):
        program.run((0, 1, 1), [0, 0, 0], [])
    with pytest.raises(ValueError, match="the buffer given for from is not among the buffers"):
        program.run((1, 1, 1), [buffer(a, "a")], [])
    with pytest.raises(ValueError, match=r"has shape \[3\], one flag for each of its 16 bytes"):
        program.run((1, 1, 1), [], [buffer(a, "a", initialised=np.zeros(3, np.uint8))])
    with pytest.raises(ValueError, match="order is one of forward"):
        Options(order="sideways")
    # what is left out is 0: no lane takes part
    assert program.run((1, 1, 1), [a.ctypes.data], [buffer(a, "a")]).faults == []


def test_two_buffers_at_one_address_are_told_apart_by_their_turn():
    """As for a tensor and its first element."""
    a, b = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    whole, one = buffer(a, "whole"), Buffer(a.ctypes.data, 4, "one")
    program = Program.decode(COPY, 0)
    address = a.ctypes.data
    program.run((1, 1, 1), [address, b.ctypes.data, 8], [whole, buffer(b, "b"), one])
    with pytest.raises(Fault, match="after the end of one"):
        program.run((1, 1, 1), [address, b.ctypes.data, 8], [one, buffer(b, "b"), whole])


def test_scalars_of_every_type():
    out = np.zeros(4, np.uint64)
    body = """ld.param.u64 %d1, [a]; ld.param.f32 %r1, [x]; ld.param.f64 %d2, [y];
    ld.param.s32 %r2, [i]; ld.param.u8 %h1, [c]; cvt.u64.u32 %d3, %r1; cvt.s64.s32 %d4, %r2;
    cvt.u64.u16 %d5, %h1; st.global.u64 [%d1], %d3; st.global.u64 [%d1+8], %d2;
    st.global.u64 [%d1+16], %d4; st.global.u64 [%d1+24], %d5;"""
    parameters = ".param .u64 a, .param .f32 x, .param .f64 y, .param .u32 i, .param .u8 c"
    launch(kernel(body, parameters, threads=1), [out, 1.5, -2.5, -3, 200])
    assert out[0] == 0x3FC00000 and out[1:2].view(np.float64)[0] == -2.5
    assert out[2:3].view(np.int64)[0] == -3 and out[3] == 200


def test_structures_of_numbers_and_addresses():
    """As CUDA passes them by value."""
    out, more = np.zeros(4, np.uint64), np.arange(3, dtype=np.uint64)
    body = """ld.param.u64 %d1, [s]; ld.param.u64 %d2, [s+8]; ld.param.u64 %d3, [s+16];
    ld.global.u64 %d4, [%d3+8]; st.global.u64 [%d1], %d2; st.global.u64 [%d1+8], %d4;"""
    program = Program.decode(kernel(body, ".param .align 8 .b8 s[24]", threads=1), 0)
    target, source = buffer(out, "out"), buffer(more, "more")
    program.run((1, 1, 1), [(target, -2, source)], [target, source])
    assert out.tolist() == [2**64 - 2, 1, 0, 0]
    with pytest.raises(ValueError, match="s has 24 bytes, not 2 members of 8"):
        program.run((1, 1, 1), [(target, source)], [target, source])
