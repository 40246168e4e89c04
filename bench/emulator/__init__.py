"""Compiled GPU kernels executed on a CPU: PTX decoded into a table and run by C.

What runs is what a GPU would be given, so every wrong address, race and barrier of the compiled
code shows, and so does what the kernel asks of the memory system. What it does not show: time, what
the last step to machine code does, and orders of memory that GPUs allow beyond those that races
are found by.
"""

from bench.emulator.counts import A100, GEOMETRIES, H100, V100, CacheGeometry, Counts
from bench.emulator.decode import DecodeError
from bench.emulator.faults import Fault
from bench.emulator.orders import Difference, differences_by_order
from bench.emulator.program import ORDERS, Buffer, Launch, Options, Program
from bench.emulator.ptx import PtxError

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
