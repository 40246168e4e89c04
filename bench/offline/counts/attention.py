"""A layer of deformable attention: outputs compared with the reference, requests counted.

    python -m bench.counts attention
    python -m bench.counts attention --only 'encoder 360' --capability 80 --dtype float32

The PTX runs on the emulator, every output is compared with float64, and what the memory system is
asked for is counted per row (image, query, head). Machine instructions are those of the code that
ptxas makes of it, loops times their trips, a branch of the merged backward by the share of trips
that took it. Bounds of several launches add up, and caches are empty at the beginning of each.
"single adds" is the backward where adds are not merged.
"""

from __future__ import annotations

import argparse
import math
import operator
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor

from bench.offline.counts.gpus import GPU, GPUS, aligned, gpu_alignment, read_binary, relative_error
from bench.offline.counts.store import FOLDER, Store
from bench.offline.emulator import Counts, Options
from bench.suite import msda_calls
from bench.suite.msda_calls import Inputs, MSDACall
from bench.suite.tolerances import RELATIVE_NORM
from kernels.deformable_attention import tiles

if TYPE_CHECKING:
    from bench.offline.disassembly import Listing
    from bench.offline.emulator.session import LaunchRecord

WORKLOADS = {
    "encoder 360x640": MSDACall(height=360, width=640, frames=2),
    "encoder 480x768": MSDACall(height=480, width=768, frames=2),
    "decoder 360x640": MSDACall(height=360, width=640, frames=10, queries=300),
}
"""Samples lie as in a trained model: 2.5 cells around the reference."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DIRECTIONS = ("forward", "backward", "single adds")
RECORD, PART = FOLDER / "attention.json", "emulated-attention"
KERNEL = {
    "forward": "deformable_attention.forward_kernel",
    "backward": "deformable_attention.backward_kernel",
    "single adds": "deformable_attention.backward_kernel",
}
"""Of a direction that is one launch."""

TILE = ("BQ", "HEADS", "VECTORS", "LANES", "VEC", "STREAMS", "RUN")
"""Constants that say how a program is laid out."""

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
    """The launches of an operator's direction, per row of work where not said otherwise.

    Attributes:
        tile, registers, spilled: of the launch that takes longest.
        ptx, sass: executed warp instructions; sass is None where code cannot be read.
        requests, sectors, wavefronts: of loads.
        l1_hit: share of the loads' sectors.
        shared: passes of shared memory, and shuffles.
        stored, added: passes of stores and of atomics, line by line.
        atomics, atomic_sectors: requests and their sectors.
        l2_reads: sectors.
        dram_read, dram_write: megabytes a frame.
        bounds: microseconds a frame that each resource takes at least, of all launches.
        bound: the largest of these of each launch, summed.
        launches: where there are several, kernel, registers, instructions and bounds of each.
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
    bound: float
    error: float
    launches: tuple[dict[str, Any], ...] = ()

    @property
    def binds(self) -> str:
        """The resource that takes longest: most of the bound, where launches differ."""
        parts = dict.fromkeys(self.bounds, 0.0)
        for bounds in [part["bounds"] for part in self.launches] or [self.bounds]:
            parts[max(bounds, key=bounds.__getitem__)] += max(bounds.values())
        return max(parts, key=parts.__getitem__)


def count(call: MSDACall, direction: str, capability: int) -> Row:
    """Run a direction's launches on the emulator, compare their outputs, and count.

    Raises: ValueError: an output is wrong; EmulatedFaultError.
    """
    from bench.offline.emulator.session import emulated

    gpu, dtype = GPUS[capability], call.dtype
    inputs = call.inputs(torch.device("cpu"))
    with gpu_alignment():
        leaves = [aligned(leaf.detach()).requires_grad_() for leaf in inputs.leaves()]
    exact = _results(msda_calls.reference, *_in_float64(inputs), direction)
    plain = Options(check_races=False, check_initialised=False, blocks=())
    # A backward begins with the launch of the forward.
    skipped = int(direction != "forward")
    is_single = direction == "single adds"
    unmerged = mock.patch.object(tiles, "MERGED_ROWS", sys.maxsize) if is_single else nullcontext()
    with unmerged, emulated(capability, options=plain, poison=False) as session, gpu_alignment():
        # Once without running a block, for the code and the registers that occupancy depends on.
        _results(msda_calls.ours, inputs, leaves, direction)
        binaries = {
            launch.kernel: read_binary(launch.function.binary, capability)
            for launch in session.launches[skipped:]
        }
        together = {
            launch.kernel: gpu.caches.blocks_together(
                launch.function.program.threads[0],
                launch.function.program.shared_bytes,
                binaries[launch.kernel][0],
            )
            for launch in session.launches[skipped:]
        }
        counted = replace(plain, blocks=None, caches=gpu.caches, count=True)

        def watch(kernel: str, _: Any) -> None:
            session.options = replace(counted, blocks_together=together.get(kernel, 1))

        session.watch = watch
        first = len(session.launches) + skipped
        actual = _results(msda_calls.ours, inputs, leaves, direction)
    launches = session.launches[first:]
    worst = max(
        relative_error(*pair, is_kinked=i == 1)
        for i, pair in enumerate(zip(actual, exact, strict=True))
    )
    if not worst <= RELATIVE_NORM[dtype]:
        raise ValueError(f"{direction} {dtype} sm_{capability}: relative error {worst:.2g}")
    codes = [machine_code(launch, *binaries[launch.kernel], call) for launch in launches]
    return row_of(direction, call, capability, launches, codes, worst)


def row_of(
    direction: str,
    call: MSDACall,
    capability: int,
    launches: Sequence[LaunchRecord],
    codes: Sequence[Code],
    error: float,
) -> Row:
    """The counts of launches, added up."""
    gpu = GPUS[capability]
    parts = [
        per_row(launch.counts, call, gpu, code.per_row)
        for launch, code in zip(launches, codes, strict=True)
    ]
    total = reduce(operator.add, (launch.counts for launch in launches))
    sass = None if any(code.per_row is None for code in codes) else sum(c.per_row for c in codes)
    longest = max(range(len(parts)), key=lambda i: parts[i]["bound"])
    constants = launches[longest].constants
    tile = {k: constants[k] for k in TILE if k in constants}
    tile["warps"] = launches[longest].function.program.threads[0] // 32
    each = [
        {"kernel": launch.kernel, "registers": code.registers, "spilled": code.spilled}
        | {"sass": code.per_row, "ptx": part["ptx"], "bounds": part["bounds"]}
        for launch, code, part in zip(launches, codes, parts, strict=True)
    ]
    return Row(
        direction=direction,
        dtype=str(call.dtype).removeprefix("torch."),
        capability=capability,
        gpu=gpu.caches.name,
        tile=tile,
        registers=codes[longest].registers,
        spilled=codes[longest].spilled,
        sass=sass,
        error=error,
        launches=tuple(each) if len(each) > 1 else (),
        **per_row(total, call, gpu, sass) | {"bound": sum(part["bound"] for part in parts)},
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
    bounds = {kind: 1e6 * s / call.frames for kind, s in seconds.items()}
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
        "bounds": bounds,
        "bound": max(bounds.values()),
    }


def machine_code(
    launch: LaunchRecord, registers: int, listing: Listing | None, call: MSDACall
) -> Code:
    """What ptxas made of a launch's PTX.

    Args:
        registers, listing: of `read_binary`.
    """
    if listing is None:
        return Code(registers=registers, spilled=None, per_row=None)
    constants, warps = launch.constants, launch.counts.warps
    trips, taken = constants.get("L", 1), 1.0
    if "BLOCK" in constants:  # of cells, of which the finest level has most
        trips = -(-math.prod(call.shapes[0]) // constants["BLOCK"])
    if "RUN" in constants:
        trips = constants["RUN"]
        # The branch holds half of the adds in the code; the others run once, behind the loop, as
        # often as the first trip takes the branch and has nothing to add.
        adds = sum(listing.count("RED|ATOM").values()) / 2
        taken = launch.counts.atomics.requests / (adds * warps * trips)
    return Code(
        registers=registers,
        spilled=listing.spilled_bytes(),
        per_row=listing.executed(trips, taken) * warps / call.rows,
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
        f"{dram:>12}  {row.bound:.0f} ({row.binds}) of {bounds}"
    )


def show_launch(launch: dict[str, Any]) -> str:
    """One of several launches of a row, for the lines below it."""
    bounds = launch["bounds"]
    binds = max(bounds, key=bounds.__getitem__)
    sass = "-" if launch["sass"] is None else f"{launch['sass']:.0f}"
    parts = ", ".join(f"{kind} {us:.1f}" for kind, us in bounds.items())
    return (
        f"  {launch['kernel'].rpartition('.')[2]:29}{launch['ptx']:6.0f}{sass:>6}"
        f"{launch['registers']:5}  {bounds[binds]:.1f} ({binds}) of {parts}"
    )


def is_of(row: dict[str, Any], digests: dict[str, str]) -> bool:
    """Whether a row is of this code."""
    return all(digests.get(kernel) == code for kernel, code in row["code"].items())


def is_counted(direction: str, dtype: str, capability: int) -> bool:
    """What belongs to the record: float16 stands beside one peer, which has it forward only."""
    return dtype != "float16" or (direction == "forward" and capability >= 80)


def main(arguments: Sequence[str] | None = None) -> int:
    from bench.offline.emulator.coverage import code_digests

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
            for dtype in options.dtype:
                for capability in options.capability:
                    key = dict(zip(KEY, (name, direction, dtype, capability), strict=True))
                    row = store.rows.get(store.key_of(key))
                    is_known = options.changed and row is not None and is_of(row, code_digests())
                    if is_known or not is_counted(direction, dtype, capability):
                        continue
                    call = replace(WORKLOADS[name], dtype=DTYPES[dtype])
                    done = count(call, direction, capability)
                    print("\n".join([show(done), *map(show_launch, done.launches)]), flush=True)
                    launched = [part["kernel"] for part in done.launches] or [KERNEL[direction]]
                    code = {name: code_digests()[name] for name in launched}
                    store.enter(key | asdict(done) | {"binds": done.binds, "code": code})
    store.write()
    print(store.path)
    return 0
