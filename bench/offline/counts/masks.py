"""The mask kernels: outputs compared with the reference, requests counted.

    python -m bench.counts masks
    python -m bench.counts masks --capability 80 --dtype float32

With the rates of `bench.counts`, for every launch of the mask head, of its
losses and of thresholds at a training step's sizes: outputs are compared with the reference, and
instructions and memory requests are given per 32 cells of an instance (of thresholds, per 32 pixels
of a frame). Beside each launch stand its least bytes, every tensor that it is given once, and
beside the head those of the published formulation, each operator's inputs and outputs once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import kernels
from bench.offline.counts.gpus import GPU, GPUS, aligned, gpu_alignment, read_binary, relative_error
from bench.offline.counts.store import FOLDER, Store
from bench.offline.emulator import Options
from bench.suite import mask_calls
from bench.suite.mask_calls import MaskCall
from bench.suite.tolerances import RELATIVE_NORM

if TYPE_CHECKING:
    from bench.offline.emulator.session import LaunchRecord

CALL = MaskCall(instances=24, frames=2, height=360, width=640, layers=6)
"""As a step's losses: four objects, matched in each of six layers. Two frames stand for five."""
FRAME = (360, 640)
WARP = 32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RECORD, PART = FOLDER / "masks.json", "emulated-masks"
KEY = ("operation", "dtype", "capability", "number")

GROUPED_FLOATS = {"forward": 98, "both": 294}
"""Values that the published formulation reads and writes per cell of an instance, forward: join of
coordinates and channels (8 + 10), three convolutions (18, 16, 9), two ReLUs (16 each), upsampling
(5), with its padding (10). Backward moves at least twice as many."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One launch.

    Attributes:
        instructions: executed warp instructions of PTX, per 32 cells.
        requests, sectors, wavefronts: of loads, likewise.
        stored: passes of stores, likewise.
        l1_hit: share of the loads' sectors.
        l2_reads: sectors, per 32 cells.
        dram: megabytes read and written; least: of the tensors, each once.
        bounds: microseconds of the launch that each resource takes at least.
        code: digest of the kernel.
    """

    operation: str
    kernel: str
    dtype: str
    capability: int
    gpu: str
    grid: int
    registers: int
    spilled: int | None
    instructions: float
    requests: float
    sectors: float
    wavefronts: float
    stored: float
    l1_hit: float
    l2_reads: float
    dram: float
    least: float
    bounds: dict[str, float]
    code: str

    @property
    def binds(self) -> str:
        """The resource that takes longest."""
        return max(self.bounds, key=self.bounds.__getitem__)


def head(dtype: torch.dtype) -> list[Tensor]:
    """Logits and the gradients of features, parameters and references."""
    return _run(mask_calls.ours, dtype)


def losses(dtype: torch.dtype) -> list[Tensor]:
    """The losses and the same gradients."""
    return _run(mask_calls.our_losses, dtype)


def thresholds(dtype: torch.dtype) -> list[Tensor]:
    """Masks at the frame's size, as bytes and as bits."""
    h, w = CALL.cells
    shape = (CALL.instances, 2 * h, 2 * w)
    logits = aligned(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))
    return [kernels.threshold_masks(logits, FRAME, packed) for packed in (False, True)]


OPERATIONS: dict[str, tuple[Callable[[torch.dtype], list[Tensor]], int]] = {
    "head": (head, CALL.instances * CALL.frames * prod(CALL.cells)),
    "losses": (losses, CALL.instances * CALL.frames * prod(CALL.cells)),
    "thresholds": (thresholds, CALL.instances * prod(FRAME)),
}
"""What is run, and the cells or pixels that each of its launches works on."""


def _run(run: mask_calls.Run, dtype: torch.dtype) -> list[Tensor]:
    inputs = replace(CALL, dtype=dtype).inputs(torch.device("cpu"))
    leaves = [aligned(leaf.detach()).requires_grad_() for leaf in inputs.leaves()]
    output = run(inputs, leaves)
    grad = inputs.grad if output.dim() else torch.ones(())
    return [output.detach(), *torch.autograd.grad(output, leaves, grad.to(output.dtype))]


def count(operation: str, dtype: torch.dtype, capability: int) -> list[Row]:
    """Rows of an operation's launches, in their order.

    Raises: ValueError: an output is wrong; EmulatedFaultError.
    """
    from bench.offline.emulator.session import emulated

    run, cells = OPERATIONS[operation]
    gpu = GPUS[capability]
    with kernels.use_backend("reference"):
        expected = run(dtype)
    plain = Options(check_races=False, check_initialised=False, caches=gpu.caches, count=True)
    with (
        emulated(capability, options=plain, poison=False) as session,
        gpu_alignment(),
        kernels.use_backend("triton"),
    ):
        actual = run(dtype)
    worst = max(
        relative_error(a, b.double(), is_kinked=False)
        for a, b in zip(actual, expected, strict=True)
    )
    # Both are rounded, each on its own.
    if not worst <= 2 * RELATIVE_NORM[dtype]:
        raise ValueError(f"{operation} {dtype} sm_{capability}: relative error {worst:.2g}")
    name = str(dtype).removeprefix("torch.")
    return [_row(operation, launch, cells, name, capability, gpu) for launch in session.launches]


def _row(
    operation: str, launch: LaunchRecord, cells: int, dtype: str, capability: int, gpu: GPU
) -> Row:
    from bench.offline.emulator.coverage import code_digests

    counts = launch.counts
    registers, listing = read_binary(launch.function.binary, capability)
    groups, caches, loads = cells / WARP, counts.caches, counts.loads
    shared = sum(k.wavefronts for k in (counts.shared_loads, counts.shared_stores))
    shared += counts.instructions.get("shuffle", 0)
    clocks = gpu.caches.multiprocessors * gpu.clock
    dram = caches.dram_read_bytes + caches.dram_write_bytes
    seconds = {
        "issue": counts.warp_instructions / 4 / clocks,
        "l1": (loads.wavefronts + shared + counts.stores.line_passes) / clocks,
        "l2 reads": caches.l2_read_sectors / gpu.l2_reads / gpu.clock,
        "dram": dram / gpu.dram,
    }
    return Row(
        operation=operation,
        kernel=launch.kernel.rpartition(".")[2],
        dtype=dtype,
        capability=capability,
        gpu=gpu.caches.name,
        grid=prod(launch.grid),
        registers=registers,
        spilled=None if listing is None else listing.spilled_bytes(),
        instructions=counts.warp_instructions / groups,
        requests=loads.requests / groups,
        sectors=loads.sectors / groups,
        wavefronts=loads.wavefronts / groups,
        stored=counts.stores.line_passes / groups,
        l1_hit=caches.l1_hit_rate,
        l2_reads=caches.l2_read_sectors / groups,
        dram=dram / 1e6,
        least=_least_bytes(launch) / 1e6,
        bounds={kind: 1e6 * s for kind, s in seconds.items()},
        code=code_digests()[launch.kernel],
    )


def _least_bytes(launch: LaunchRecord) -> int:
    """Of all tensors of a launch, each once."""
    given = [value for value in launch.arguments.values() if isinstance(value, tuple)]
    return sum(getattr(torch, dtype).itemsize * prod(shape) for dtype, shape in given)


HEADER = (
    f"{'':49}{'GPU':>5}{'PTX':>7}{'regs':>5}{'req':>7}{'sect':>7}{'wf':>7}{'stored':>7}{'hit':>5}"
    f"{'L2':>6}{'DRAM':>7}{'least':>7} MB  bound us"
)


def show(row: Row) -> str:
    """One line."""
    bounds = ", ".join(f"{kind} {us:.1f}" for kind, us in row.bounds.items())
    return (
        f"{row.operation:11}{row.kernel:21}{row.dtype:9}sm_{row.capability:<5}{row.gpu:>5}"
        f"{row.instructions:7.0f}{row.registers:5}{row.requests:7.1f}{row.sectors:7.1f}"
        f"{row.wavefronts:7.1f}{row.stored:7.1f}{row.l1_hit:5.0%}{row.l2_reads:6.1f}{row.dram:7.2f}"
        f"{row.least:7.2f}     {row.bounds[row.binds]:.1f} ({row.binds}) of {bounds}"
    )


def grouped_megabytes(direction: str) -> float:
    """Least bytes of the published formulation of the head in float32."""
    cells = CALL.instances * CALL.frames * prod(CALL.cells)
    return 4 * GROUPED_FLOATS[direction] * cells / 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    from bench.offline.emulator.coverage import code_digests

    parser = argparse.ArgumentParser(prog="bench.counts masks", description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="operations whose name contains this")
    parser.add_argument("--capability", type=int, nargs="+", default=[80, 90], choices=GPUS)
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--changed", action="store_true", help="what the record does not have yet")
    parser.add_argument("--output", type=Path, default=RECORD, help="record to add to")
    options = parser.parse_args(arguments)
    operations = [name for name in OPERATIONS if options.only in name]
    if not operations:
        print(f"no operation's name contains {options.only!r}", file=sys.stderr)
        return 2
    store = Store(
        options.output,
        PART,
        KEY,
        rates={str(k): asdict(gpu) for k, gpu in GPUS.items()},
        grouped_megabytes={direction: grouped_megabytes(direction) for direction in GROUPED_FLOATS},
    )
    present = set(code_digests().values())
    print(f"per {WARP} cells or pixels; bytes and bounds of a launch\n{HEADER}")
    for operation in operations:
        for dtype in options.dtype:
            for capability in options.capability:
                own = [
                    row
                    for row in store.rows.values()
                    if (row["operation"], row["dtype"], row["capability"])
                    == (operation, dtype, capability)
                ]
                if options.changed and own and {row["code"] for row in own} <= present:
                    continue
                rows = count(operation, DTYPES[dtype], capability)
                for row in rows:
                    print(show(row), flush=True)
                store.enter(
                    *(
                        {**asdict(row), "number": i, "binds": row.binds}
                        for i, row in enumerate(rows)
                    )
                )
    store.write()
    for direction in GROUPED_FLOATS:
        megabytes = grouped_megabytes(direction)
        print(f"grouped convolutions, {direction}: at least {megabytes:.0f} MB")
    print(store.path)
    return 0
