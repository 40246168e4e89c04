"""Running decoded programs: arguments and buffers in, changed buffers, faults and counts out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.offline.emulator import counts as counting
from bench.offline.emulator.decoded import ORDERS, Buffer, DecodedProgram, Launch, Options
from bench.offline.emulator.faults import KINDS, Fault
from bench.offline.emulator.library import library
from bench.offline.emulator.operands import fill_constant
from bench.offline.emulator.ptx import Parameter

_WINDOW_BITS = 40
_GLOBAL_BIT = 1 << 62
_SHARED, _LOCAL = -2, -3  # where an argument's number would be; -1: in no window
_WITH_ADDRESS = (
    "out of bounds",
    "misaligned",
    "uninitialised memory",
    "write to a read-only buffer",
)
_LARGE = 1 << 26  # bytes
_MAX_FAULTS, _MAX_CLASSES, _MAX_COUNTS = 64, 16, 64


class _OrderForm(ctypes.Structure):
    _fields_ = (
        [
            (name, ctypes.c_void_p)
            for name in (
                "code", "specials", "constants", "windows", "regions", "blocks", "geometry",
                "faults", "instructions", "counted",
            )
        ]
        + [
            (name, ctypes.c_int64)
            for name in ("num_instructions", "num_registers", "register_bytes", "num_specials")
        ]
        + [("threads", ctypes.c_int64 * 3), ("grid", ctypes.c_int64 * 3)]
        + [
            (name, ctypes.c_int64)
            for name in (
                "shared_bytes", "local_bytes", "num_windows", "num_regions", "num_blocks", "seed",
                "order", "checks_races", "checks_initialised", "worst_approximation", "collects",
                "counts", "max_steps", "same_value_stores",
            )
        ]
    )  # fmt: skip


_WINDOW = np.dtype(
    [("base", "u8"), ("size", "u8"), ("data", "u8"), ("defined", "u8"), ("region", "i4"),
     ("argument", "i4"), ("place", "u8"), ("is_read_only", "i8")]
)  # fmt: skip
_REGION = np.dtype([("shadows", "u8"), ("size", "u8"), ("shift", "i4"), ("is_tracked", "i4")])
_FAULT = np.dtype(
    [
        (name, "i4")
        for name in ("kind", "pc", "other_pc", "warp", "lane", "argument", "space", "count")
    ]
    + [("block", "i8"), ("other_block", "i8"), ("address", "u8")]
)


def run(
    program: DecodedProgram,
    grid: tuple[int, int, int],
    arguments: Sequence[Any],
    buffers: Sequence[Buffer],
    options: Options,
) -> Launch:
    """What `Program.run` says."""
    return _Run(program, grid, arguments, buffers, options).run()


class _Run:
    """One launch on its way."""

    def __init__(
        self,
        program: DecodedProgram,
        grid: tuple[int, int, int],
        arguments: Sequence[Any],
        buffers: Sequence[Buffer],
        options: Options,
    ) -> None:
        self.program, self.options = program, options
        self.grid = (*grid, 1, 1)[:3]
        if min(self.grid) < 1:
            raise ValueError(f"a grid has at least one block along each axis, not {grid}")
        self.buffers = list(buffers)
        module = program.module_data
        self.num_arguments = len(self.buffers)
        if len(module):
            self.buffers.append(Buffer(module.ctypes.data, len(module), "variables of the module"))
        self.kept: list[np.ndarray] = []
        self.written = self._written(arguments)
        self.windows = self._windows()
        self.constants = self._constants(arguments)

    def run(self) -> Launch:
        program, options, code = self.program, self.options, self.program.code
        blocks = self._blocks()
        faults = np.zeros(_MAX_FAULTS, dtype=_FAULT)
        instructions = np.zeros(_MAX_CLASSES, dtype=np.int64)
        counted = np.zeros(_MAX_COUNTS, dtype=np.int64)
        geometry = self._geometry()
        form = _OrderForm(
            code=program.handle,
            specials=code.specials.ctypes.data,
            constants=self.constants.ctypes.data,
            windows=self.windows.ctypes.data,
            regions=self.regions.ctypes.data,
            blocks=blocks.ctypes.data,
            geometry=None if geometry is None else geometry.ctypes.data,
            faults=faults.ctypes.data,
            instructions=instructions.ctypes.data,
            counted=counted.ctypes.data,
            num_instructions=len(code.rows),
            num_registers=code.num_registers,
            register_bytes=code.register_bytes,
            num_specials=len(code.specials),
            threads=(ctypes.c_int64 * 3)(*program.threads),
            grid=(ctypes.c_int64 * 3)(*self.grid),
            shared_bytes=program.shared_bytes,
            local_bytes=code.layout.local_bytes,
            num_windows=len(self.windows),
            num_regions=len(self.regions),
            num_blocks=len(blocks),
            seed=options.seed & 0xFFFFFFFF,
            order=ORDERS.index(options.order),
            checks_races=options.check_races,
            checks_initialised=options.check_initialised,
            worst_approximation=options.worst_approximation,
            collects=options.collect,
            counts=options.count or options.caches is not None,
            max_steps=options.max_steps,
        )
        number = library().run_launch(ctypes.byref(form))
        if number < 0:
            raise MemoryError(f"no memory to watch the buffers of {program.name} for races")
        found = [self._fault(faults[k]) for k in range(number)]
        if found and not options.collect:
            # what ended the launch, before races that were seen on the way
            raise min(found, key=lambda fault: fault.is_race)
        threads = int(np.prod(program.threads))
        return Launch(
            kernel=program.name,
            grid=self.grid,
            faults=found,
            counts=counting.read_counts(
                instructions,
                counted,
                blocks=len(blocks),
                warps=len(blocks) * -(-threads // 32),
                has_requests=bool(form.counts),
                has_caches=geometry is not None,
            ),
            same_value_stores=form.same_value_stores,
        )

    def _blocks(self) -> np.ndarray:
        total = self.grid[0] * self.grid[1] * self.grid[2]
        if self.options.blocks is None:
            blocks = np.arange(total, dtype=np.int64)
        else:
            blocks = np.array(self.options.blocks, dtype=np.int64)
            if len(blocks) and (blocks.min() < 0 or blocks.max() >= total):
                raise ValueError(f"blocks have numbers below {total}")
        if self.options.order == "reverse":
            blocks = blocks[::-1].copy()
        elif self.options.order == "random":
            blocks = np.random.default_rng(self.options.seed).permutation(blocks)
        return blocks

    def _geometry(self) -> np.ndarray | None:
        caches, program = self.options.caches, self.program
        if caches is None:
            return None
        threads = int(np.prod(program.threads))
        together = self.options.blocks_together
        if together is None:
            together = caches.blocks_together(threads, program.shared_bytes)
        l1 = caches.l1_left(together, program.shared_bytes)
        neighbours = together if caches.placement == "fill" else 1
        levels = (l1, caches.l1_ways, caches.l2_bytes, caches.l2_ways)
        numbers = (caches.multiprocessors, together, *levels, neighbours)
        return np.array(numbers, dtype=np.int64)

    def _windows(self) -> np.ndarray:
        """Every buffer in a window of its own; those that overlap share a region of shadows."""
        windows = np.zeros(len(self.buffers) + 2, dtype=_WINDOW)
        regions: list[list[int]] = []  # first and last byte, whether it is written
        for k in sorted(range(len(self.buffers)), key=lambda k: self.buffers[k].address):
            buffer = self.buffers[k]
            first, last = buffer.address, buffer.address + buffer.num_bytes
            if not regions or first >= regions[-1][1]:
                regions.append([first & ~15, first, 0])
            region = regions[-1]
            region[1] = max(region[1], last)
            region[2] |= self.written[k]
            # what a CPU's allocator aligns, a GPU's does too, only more
            place = 0 if first % 64 == 0 else first % 512
            base = _GLOBAL_BIT | k << _WINDOW_BITS | 1 << (_WINDOW_BITS - 1) | place
            defined = self._defined(buffer)
            windows[k] = (
                base,
                buffer.num_bytes,
                first,
                defined,
                len(regions) - 1,
                k,
                first - region[0],
                buffer.written is False,
            )
        shared = self.program.shared_bytes
        self.regions = np.zeros(len(regions) + 1, dtype=_REGION)
        for n, (first, last, is_written) in enumerate(regions):
            # small regions are divided further when something narrower is seen; large ones at once
            shift = 2 if last - first < _LARGE else self.program.narrowest_shift
            self.regions[n] = (0, last - first, shift, is_written and self.options.check_races)
        self.regions[-1] = (0, shared, 2, self.options.check_races and shared > 0)
        local = self.program.code.layout.local_bytes
        windows[-2] = (0, shared, 0, 0, len(regions), _SHARED, 0, 0)
        windows[-1] = (0, local, 0, 0, -1, _LOCAL, 0, 0)
        return windows

    def _defined(self, buffer: Buffer) -> int:
        if buffer.initialised is True:
            return 0
        flags = buffer.initialised
        if flags is False:
            flags = np.zeros(buffer.num_bytes, dtype=np.uint8)
        flags = flags.view(np.uint8)
        if flags.shape != (buffer.num_bytes,) or not flags.flags.c_contiguous:
            raise ValueError(
                f"initialised of {buffer.name} has shape {list(flags.shape)}, one flag for each "
                f"of its {buffer.num_bytes} bytes is needed"
            )
        self.kept.append(flags)
        return flags.ctypes.data

    def _written(self, arguments: Sequence[Any]) -> list[bool]:
        """Which buffers the code may write to."""
        may_write = self.program.written
        written = []
        for buffer in self.buffers:
            if buffer.written is not None:
                written.append(buffer.written)
                continue
            reaching = {n for n, a in enumerate(arguments) if self._is_in(a, buffer)}
            written.append(may_write is None or not reaching or bool(reaching & may_write))
        return written

    @staticmethod
    def _is_in(argument: Any, buffer: Buffer) -> bool:
        if not isinstance(argument, int):
            return argument is buffer
        at = argument - buffer.address
        return 0 <= at < buffer.num_bytes or at == 0

    def _constants(self, arguments: Sequence[Any]) -> np.ndarray:
        code = self.program.code
        block = self._parameter_block(arguments)
        pool = code.constants.copy()
        for slot in code.parameter_slots:
            part = block[slot.offset : slot.offset + slot.size]
            value = int.from_bytes(part, "little", signed=slot.is_signed)
            fill_constant(pool, slot.place, slot.bits, value)
        for place, bits, offset in code.global_slots:
            fill_constant(pool, place, bits, int(self.windows[self.num_arguments]["base"]) + offset)
        return pool

    def _parameter_block(self, arguments: Sequence[Any]) -> bytes:
        parameters = self.program.parameters
        if len(arguments) > len(parameters):
            raise ValueError(
                f"{self.program.name} takes {len(parameters)} arguments, "
                f"{len(arguments)} were given"
            )
        size = max((p.offset + p.size for p in parameters), default=0)
        block = bytearray(size)
        used: dict[int, int] = {}
        for parameter, argument in zip(parameters, arguments, strict=False):
            data = self._bytes_of(parameter, argument, used)
            block[parameter.offset : parameter.offset + parameter.size] = data
        return bytes(block)

    def _bytes_of(self, parameter: Parameter, argument: Any, used: dict[int, int]) -> bytes:
        if isinstance(argument, bytes):
            if len(argument) != parameter.size:
                raise ValueError(
                    f"{parameter.name} has {parameter.size} bytes, not {len(argument)}"
                )
            return argument
        if isinstance(argument, tuple):
            return self._structure(parameter, argument, used)
        if isinstance(argument, Buffer):
            number = next((k for k, b in enumerate(self.buffers) if b is argument), None)
            if number is None:
                raise ValueError(f"the buffer given for {parameter.name} is not among the buffers")
            argument = int(self.windows[number]["base"])
        elif parameter.size == 8 and parameter.type in ("u64", "b64", "s64"):
            argument = self._emulated(int(argument), used)
        if parameter.type in ("f32", "f64"):
            kind = np.float32 if parameter.type == "f32" else np.float64
            return kind(argument).tobytes()
        return (int(argument) & (1 << 8 * parameter.size) - 1).to_bytes(parameter.size, "little")

    def _structure(
        self, parameter: Parameter, members: tuple[Any, ...], used: dict[int, int]
    ) -> bytes:
        if 8 * len(members) != parameter.size:
            raise ValueError(
                f"{parameter.name} has {parameter.size} bytes, not {len(members)} members of 8"
            )
        kind = Parameter(parameter.name, "b64", 0, 8)
        return b"".join(self._bytes_of(kind, member, used) for member in members)

    def _emulated(self, address: int, used: dict[int, int]) -> int:
        """The address in the machine of an address of this process."""
        same = [k for k in range(self.num_arguments) if self.buffers[k].address == address]
        if same:
            number = same[min(used.get(address, 0), len(same) - 1)]
            used[address] = used.get(address, 0) + 1
            return int(self.windows[number]["base"])
        for k in range(self.num_arguments):
            at = address - self.buffers[k].address
            if 0 < at < self.buffers[k].num_bytes:
                return int(self.windows[k]["base"]) + at
        return address

    def _index(self, block: int) -> tuple[int, int, int]:
        x, y, _ = self.grid
        return block % x, block // x % y, block // x // y

    def _fault(self, record: np.void) -> Fault:
        statements = self.program.kernel.statements
        kind = KINDS[int(record["kind"])]
        pc, other = (min(int(record[n]), len(statements) - 1) for n in ("pc", "other_pc"))
        here = statements[pc]
        places: dict[str, Any] = {}
        argument, address = int(record["argument"]), int(record["address"])
        if kind in _WITH_ADDRESS or kind.startswith("race"):
            places = self._place(argument, address)
        if kind.startswith("race") or (kind == "divergent barrier" and other):
            places |= {"other_line": statements[other].line, "other_text": statements[other].text}
        if kind.startswith("race"):
            places["other_block"] = self._index(int(record["other_block"]))
        return Fault(
            kind,
            self.program.name,
            line=here.line,
            text=here.text,
            source=here.source,
            block=self._index(int(record["block"])),
            warp=int(record["warp"]),
            lane=int(record["lane"]),
            count=int(record["count"]),
            **places,
        )

    def _place(self, argument: int, address: int) -> dict[str, Any]:
        offset = address - (1 << 64) if address >> 63 else address
        if argument in (_SHARED, _LOCAL):
            is_shared = argument == _SHARED
            size = self.program.shared_bytes if is_shared else self.program.code.layout.local_bytes
            name = "shared memory" if is_shared else "local memory"
            return {"address": offset, "offset": offset, "argument": name, "num_bytes": size}
        if argument < 0 or argument >= len(self.buffers):
            return {"address": address}
        buffer = self.buffers[argument]
        return {
            "address": buffer.address + offset,
            "offset": offset,
            "argument": buffer.name or f"buffer {argument}",
            "num_bytes": buffer.num_bytes,
        }
