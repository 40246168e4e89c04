"""A decoded kernel as the machine takes it, what it runs on, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.offline.emulator.counts import CacheGeometry, Counts
from bench.offline.emulator.decode import Code
from bench.offline.emulator.faults import Fault
from bench.offline.emulator.library import library, operations
from bench.offline.emulator.pointers import narrowest_shift, written_parameters
from bench.offline.emulator.ptx import Kernel, Parameter

ORDERS = ("forward", "reverse", "random", "lockstep")


@dataclass(frozen=True)
class Buffer:
    """Memory of the caller that a kernel may reach through its pointers.

    Attributes:
        address: of this process; the memory has to stay while the program runs.
        num_bytes: exactly what may be reached.
        name: for faults.
        written: whether the kernel may write to it; None: whatever the code says. A write to a
            buffer with False is a fault.
        initialised: True, or an array [num_bytes] of bool or uint8, nonzero where the bytes hold
            something; the program marks what it writes. Buffers that overlap have flags of their
            own.
    """

    address: int
    num_bytes: int
    name: str = ""
    written: bool | None = None
    initialised: np.ndarray | bool = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a program runs and what is looked at.

    Attributes:
        order: of blocks and of warps between barriers: "forward", "reverse", "random" (warps in
            turns of random length) or "lockstep" (warps in turns of one instruction).
        seed: of the random order and of the sides of approximations.
        check_races: accesses that no barrier orders, within a block and between blocks.
        check_initialised: reads of memory and registers that nothing was written to.
        worst_approximation: approximate instructions are wrong by what the PTX ISA allows.
        collect: faults go to the launch's list instead of being raised, and it runs on where it
            can.
        blocks: numbers of the blocks to run, x fastest; None: all. Runs of neighbours keep the
            locality that caches live from.
        count: requests, sectors, lines and conflicts, too.
        caches: a geometry to replay; counts requests as well.
        blocks_together: that a multiprocessor holds, if not what threads and shared memory allow.
        max_steps: warp instructions of a block before it counts as endless.
    """

    order: str = "forward"
    seed: int = 0
    check_races: bool = True
    check_initialised: bool = True
    worst_approximation: bool = False
    collect: bool = False
    blocks: Sequence[int] | np.ndarray | None = None
    count: bool = False
    caches: CacheGeometry | None = None
    blocks_together: int | None = None
    max_steps: int = 1 << 28

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order is one of {', '.join(ORDERS)}, not {self.order!r}")


@dataclass(frozen=True)
class Launch:
    """What came of a launch.

    Attributes:
        faults: empty unless they were collected.
        same_value_stores: blocks that wrote what another block had written already. Not a fault.
    """

    kernel: str
    grid: tuple[int, int, int]
    faults: list[Fault] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    same_value_stores: int = 0


class DecodedProgram:
    """A decoded kernel, ready to run.

    Attributes:
        name: of the entry.
        threads: of a block, (x, y, z).
        parameters: in order.
        num_instructions: in the code.
        shared_bytes: of a block.
        narrowest_shift: 2, 1 or 0, as the narrowest access has 4 bytes or more, 2, or 1.
        written: parameters that it may write through, or None where that cannot be read.
    """

    def __init__(
        self, kernel: Kernel, code: Code, threads: tuple[int, int, int], shared: int
    ) -> None:
        self.name = kernel.name
        self.threads = threads
        self.parameters: list[Parameter] = kernel.parameters
        self.num_instructions = len(kernel.statements)
        self.shared_bytes = code.layout.shared_bytes + shared
        self.kernel, self.code = kernel, code
        self.narrowest_shift = narrowest_shift(code, operations())
        self.written = written_parameters(kernel, code, operations())
        self.module_data = np.frombuffer(bytes(code.layout.data), dtype=np.uint8).copy()
        self.handle = library().new_program(code.rows.ctypes.data, len(code.rows))

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            library().free_program(self.handle)
