"""A layer of deformable attention: outputs compared with the reference, requests counted.

    python -m bench.counts attention
    python -m bench.counts attention --only 'encoder 360' --capability 80 --dtype float32

The PTX runs on the emulator, every output is compared with float64, and what the memory system is
asked for is counted per row (image, query, head). Machine instructions are those of the code that
ptxas makes of it, loops times their trips.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench import msda_calls
from bench.counts.gpus import GPU, GPUS, aligned, gpu_alignment, read_binary, relative_error
from bench.counts.store import FOLDER, Store
from bench.emulator import Counts, Options
from bench.msda_calls import Inputs, MSDACall
from bench.tolerances import RELATIVE_NORM

if TYPE_CHECKING:
    from bench.emulator.session import LaunchRecord

WORKLOADS = {
    "encoder 360x640": MSDACall(height=360, width=640, frames=2),
    "encoder 480x768": MSDACall(height=480, width=768, frames=2),
    "decoder 360x640": MSDACall(height=360, width=640, frames=10, queries=300),
}
"""Samples lie as in a trained model: 2.5 cells around the reference."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DIRECTIONS = ("forward", "backward")
RECORD, PART = FOLDER / "attention.json", "emulated-attention"
KERNELS = {
    "forward": "deformable_attention.forward_kernel",
    "backward": "deformable_attention.backward_kernel",
}
KEY = ("workload", "direction", "dtype", "capability")


@dataclass(frozen=True, kw_only=True)
class Code:
    """Machine code of a launch.

    Attributes:
        registers: of a thread.
        spilled: bytes a thread moves to and from local memory; None where code cannot be read.
        per_row: executed warp instructions; None likewise.
    """

    registers: int
    spilled: int | None
    per_row: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One launch, per row of work where not said otherwise.

    Attributes:
        ptx, sass: executed warp instructions; sass is None where code cannot be read.
        requests, sectors, wavefronts: of loads.
        l1_hit: share of the loads' sectors.
        shared: passes of shared memory, and shuffles.
        stored, added: passes of stores and of atomics, line by line.
        atomics, atomic_sectors: requests and their sectors.
        l2_reads: sectors.
        dram_read, dram_write: megabytes a frame.
        bounds: microseconds a frame that each resource takes at least.
        error: relative, of the worst output.
    """

    direction: str
    dtype: str
    capability: int
    gpu: str
    tile: dict[str, int]
    registers: int
    spilled: int | None
    ptx: float
    sass: float | None
    requests: float
    sectors: float
    wavefronts: float
    l1_hit: float
    shared: float
    stored: float
    atomics: float
    atomic_sectors: float
    added: float
    l2_reads: float
    dram_read: float
    dram_write: float
    bounds: dict[str, float]
    error: float

    @property
    def binds(self) -> str:
        """The resource that takes longest."""
        return max(self.bounds, key=self.bounds.__getitem__)


def count(call: MSDACall, direction: str, capability: int) -> Row:
    """Run one launch on the emulator, compare its outputs, and count.

    Raises: ValueError: an output is wrong; EmulatedFaultError.
    """
    from bench.emulator.session import emulated

    gpu, dtype = GPUS[capability], call.dtype
    inputs = call.inputs(torch.device("cpu"))
    with gpu_alignment():
        leaves = [aligned(leaf.detach()).requires_grad_() for leaf in inputs.leaves()]
    exact = _results(msda_calls.reference, *_in_float64(inputs), direction)
    plain = Options(check_races=False, check_initialised=False, blocks=())
    with emulated(capability, options=plain, poison=False) as session, gpu_alignment():
        # Once without running a block, for the code and the registers that occupancy depends on.
        _results(msda_calls.ours, inputs, leaves, direction)
        code = machine_code(session.launches[-1], capability)
        program = session.launches[-1].function.program
        together = gpu.caches.blocks_together(
            program.threads[0], program.shared_bytes, code.registers
        )
        session.options = replace(
            plain, blocks=None, caches=gpu.caches, count=True, blocks_together=together
        )
        actual = _results(msda_calls.ours, inputs, leaves, direction)
    launch = session.launches[-1]
    worst = max(
        relative_error(*pair, is_kinked=i == 1)
        for i, pair in enumerate(zip(actual, exact, strict=True))
    )
    if not worst <= RELATIVE_NORM[dtype]:
        raise ValueError(f"{direction} {dtype} sm_{capability}: relative error {worst:.2g}")
    tile = {k: launch.constants[k] for k in ("BQ", "HEADS", "NA", "LANES", "VEC")}
    tile["warps"] = program.threads[0] // 32
    return Row(
        direction=direction,
        dtype=str(dtype).removeprefix("torch."),
        capability=capability,
        gpu=gpu.caches.name,
        tile=tile,
        registers=code.registers,
        spilled=code.spilled,
        sass=code.per_row,
        error=worst,
        **per_row(launch.counts, call, gpu, code.per_row),
    )


def per_row(counts: Counts, call: MSDACall, gpu: GPU, sass: float | None) -> dict[str, Any]:
    """The counted fields of a `Row`."""
    rows, loads, atomics, caches = call.rows, counts.loads, counts.atomics, counts.caches
    shared = sum(
        kind.wavefronts
        for kind in (counts.shared_loads, counts.shared_stores, counts.shared_atomics)
    )
    shared += counts.instructions.get("shuffle", 0)
    passes = loads.wavefronts + shared + counts.stores.line_passes + atomics.line_passes
    instructions = counts.warp_instructions if sass is None else sass * rows
    clocks = gpu.caches.multiprocessors * gpu.clock
    dram = caches.dram_read_bytes + caches.dram_write_bytes
    seconds = {
        "issue": instructions / 4 / clocks,
        "l1": passes / clocks,
        "l2 reads": caches.l2_read_sectors / gpu.l2_reads / gpu.clock,
        "l2 atomics": caches.l2_atomic_sectors / gpu.l2_atomics / gpu.clock,
        "dram": dram / gpu.dram,
    }
    return {
        "ptx": counts.warp_instructions / rows,
        "requests": loads.requests / rows,
        "sectors": loads.sectors / rows,
        "wavefronts": loads.wavefronts / rows,
        "l1_hit": caches.l1_hit_rate,
        "shared": shared / rows,
        "stored": counts.stores.line_passes / rows,
        "atomics": atomics.requests / rows,
        "atomic_sectors": atomics.sectors / rows,
        "added": atomics.line_passes / rows,
        "l2_reads": caches.l2_read_sectors / rows,
        "dram_read": caches.dram_read_bytes / call.frames / 1e6,
        "dram_write": caches.dram_write_bytes / call.frames / 1e6,
        "bounds": {kind: 1e6 * s / call.frames for kind, s in seconds.items()},
    }


def machine_code(launch: LaunchRecord, capability: int) -> Code:
    """What ptxas made of a launch's PTX."""
    registers, listing = read_binary(launch.function.binary, capability)
    if listing is None:
        return Code(registers=registers, spilled=None, per_row=None)
    constants = launch.constants
    warps = launch.function.program.threads[0] // 32
    per_warp = listing.executed(constants["L"])
    return Code(
        registers=registers,
        spilled=listing.spilled_bytes(),
        per_row=per_warp * warps / (constants["BQ"] * constants["HEADS"]),
    )


def _in_float64(inputs: Inputs) -> tuple[Inputs, list[Tensor]]:
    """The same numbers, and their leaves."""
    wide = replace(
        inputs, reference=inputs.reference.double(), grad_output=inputs.grad_output.double()
    )
    return wide, [leaf.detach().double().requires_grad_() for leaf in inputs.leaves()]


def _results(
    run: msda_calls.Run, inputs: Inputs, leaves: list[Tensor], direction: str
) -> list[Tensor]:
    """Output, or the gradients of value, offsets and logits."""
    if direction == "forward":
        with torch.no_grad():
            return [run(inputs, leaves)]
    output = run(inputs, leaves)
    return list(torch.autograd.grad(output, leaves, inputs.grad_output))


HEADER = (
    f"{'':26}{'GPU':>5}{'PTX':>6}{'SASS':>6}{'regs':>5}{'spill':>6}{'req':>6}{'sect':>6}{'wf':>6}"
    f"{'hit':>5}{'shared':>7}{'stored':>7}{'atomics':>16}{'L2':>5}{'DRAM MB':>12}  bound us"
)


def show(row: Row) -> str:
    """One line."""
    sass = "-" if row.sass is None else f"{row.sass:.0f}"
    spilled = "-" if row.spilled is None else str(row.spilled)
    atomics = f"{row.atomics:.0f}/{row.atomic_sectors:.0f}/{row.added:.0f}"
    dram = f"{row.dram_read:.1f}+{row.dram_write:.1f}"
    bounds = ", ".join(f"{kind} {us:.0f}" for kind, us in row.bounds.items())
    return (
        f"{row.direction:9}{row.dtype:9}sm_{row.capability:<5}{row.gpu:>5}{row.ptx:6.0f}{sass:>6}"
        f"{row.registers:5}{spilled:>6}{row.requests:6.1f}{row.sectors:6.0f}{row.wavefronts:6.1f}"
        f"{row.l1_hit:5.0%}{row.shared:7.1f}{row.stored:7.1f}{atomics:>16}{row.l2_reads:5.0f}"
        f"{dram:>12}  {row.bounds[row.binds]:.0f} ({row.binds}) of {bounds}"
    )


def is_counted(direction: str, dtype: str, capability: int) -> bool:
    """What belongs to the record: float16 stands beside one peer, which has it forward only."""
    return dtype != "float16" or (direction == "forward" and capability >= 80)


def main(arguments: Sequence[str] | None = None) -> int:
    from bench.emulator.coverage import code_digests

    parser = argparse.ArgumentParser(
        prog="bench.counts attention", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--capability", type=int, nargs="+", default=list(GPUS), choices=GPUS)
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--direction", nargs="+", default=DIRECTIONS, choices=DIRECTIONS)
    parser.add_argument("--changed", action="store_true", help="what the record does not have yet")
    parser.add_argument("--output", type=Path, default=RECORD, help="record to add to")
    options = parser.parse_args(arguments)
    names = [name for name in WORKLOADS if options.only in name]
    if not names:
        print(f"no workload's name contains {options.only!r}", file=sys.stderr)
        return 2
    store = Store(options.output, PART, KEY, rates={str(k): asdict(gpu) for k, gpu in GPUS.items()})
    for name in names:
        print(f"{name}, per row of {WORKLOADS[name].rows:,}\n{HEADER}")
        for direction in options.direction:
            code = code_digests()[KERNELS[direction]]
            for dtype in options.dtype:
                for capability in options.capability:
                    key = dict(zip(KEY, (name, direction, dtype, capability), strict=True))
                    is_known = options.changed and store.has(code, **key)
                    if is_known or not is_counted(direction, dtype, capability):
                        continue
                    call = replace(WORKLOADS[name], dtype=DTYPES[dtype])
                    row = count(call, direction, capability)
                    print(show(row), flush=True)
                    store.enter(key | asdict(row) | {"binds": row.binds, "code": code})
    store.write()
    print(store.path)
    return 0
