"""Whole small programs: arguments, buffers, grids, loops, faults of memory."""

from __future__ import annotations

import numpy as np
import pytest

from bench.emulator import Buffer, DecodeError, Fault, Options, Program

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


def buffer(array: np.ndarray, name: str, **more: object) -> Buffer:
    return Buffer(array.ctypes.data, array.nbytes, name, **more)


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
