"""Compiled GPU kernels executed on a CPU: PTX decoded into a table and run by C.

What runs is what a GPU would be given, so every wrong address, race and barrier of the compiled
code shows, and so does what the kernel asks of the memory system:

    program = Program.decode(ptx, shared_bytes)
    launch = program.run(grid, arguments, buffers, Options(count=True))

What it does not show:

- time, and what the last step from PTX to machine code does;
- orders of memory beyond races: fences do nothing, atomics never race with one another;
- lanes of a warp that run ahead of one another between instructions: they run in step, so two
  instructions of one warp are taken as ordered;
- the order of additions in a matrix instruction: products are added in float64 and rounded once.

A pointer never leaves the argument that it came from, even where two buffers touch; whether memory
holds something is kept for every byte, of registers for each half.
"""

from bench.offline.emulator.counts import A100, GEOMETRIES, H100, V100, CacheGeometry, Counts
from bench.offline.emulator.decode import DecodeError
from bench.offline.emulator.decoded import ORDERS, Buffer, Launch, Options
from bench.offline.emulator.faults import Fault
from bench.offline.emulator.orders import Difference, differences_by_order
from bench.offline.emulator.program import Program
from bench.offline.emulator.ptx import PtxError

__all__ = [
    "A100",
    "GEOMETRIES",
    "H100",
    "ORDERS",
    "V100",
    "Buffer",
    "CacheGeometry",
    "Counts",
    "DecodeError",
    "Difference",
    "Fault",
    "Launch",
    "Options",
    "Program",
    "PtxError",
    "differences_by_order",
]
