"""Deformable attention of other projects: their compiled code run on the emulator, counted.

    python -m bench.counts peers --sources DeformableDETR DCNv4 deformops-wheel
    python -m bench.counts peers --only 'encoder 360' --capability 80 --dtype float32

Workloads, columns and rates are those of `bench.counts attention`; every output is compared with
float64. Sources are looked for below `--sources` and the folders in PEER_SOURCES. A peer's row has
the whole launch of its operator and nothing around it: what it leaves to other kernels (placing
samples, for some the softmax) is not in its bound, which is too low by that. Its machine
instructions are not counted, since its loops end where the data say: its bound of issue is by
instructions of PTX.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.offline.counts import attention, nvcc
from bench.offline.counts.attention import DIRECTIONS, DTYPES, HEADER, WORKLOADS, Row
from bench.offline.counts.gpus import GPUS, read_binary, relative_error
from bench.offline.counts.peer_code import PEERS, Peer, Problem
from bench.offline.counts.store import FOLDER, Store
from bench.offline.emulator import Fault, Options
from bench.offline.emulator.session import EmulatedFaultError
from bench.suite.msda_calls import MSDACall
from bench.suite.tolerances import RELATIVE_NORM
from kernels import ms_deform_attn_reference

RECORD, PART = FOLDER / "peers.json", "emulated-peers"
KEY = (*attention.KEY, "side")
OLDEST_OF_NVCC = 80
"""Of the GPUs here: it has no code for older ones, and CUDA peers are not counted there."""

_WRONG = 10
"""Times the tests' tolerance: a peer's sum in 16 bits may be over it, and is marked; code that ran
wrongly is further off."""


@dataclass(frozen=True)
class Found:
    """A peer and the folder that its path starts in."""

    peer: Peer
    folder: Path


def find_peers(folders: Sequence[Path]) -> tuple[list[Found], str]:
    """Those at hand, and a sentence about the others; "" if there are none."""
    found, absent = [], []
    for peer in PEERS:
        folder = peer.find(folders)
        if folder is None:
            absent.append(f"{peer.name} (wants {peer.source})")
        elif peer.needs_nvcc and nvcc.find() is None:
            absent.append(f"{peer.name} (wants nvcc)")
        else:
            found.append(Found(peer, folder))
    if not absent:
        return found, ""
    how = "name folders with --sources or in PEER_SOURCES"
    return found, f"Absent: {', '.join(absent)}; {how}."


def count_peer(found: Found, call: MSDACall, direction: str, capability: int) -> Row:
    """Run a peer's launch, compare its outputs with float64, and count.

    Raises: ValueError: an output is wrong; NvccError, Fault, EmulatedFaultError.
    """
    gpu, peer = GPUS[capability], found.peer
    problem = peer.problem(call)
    launch = peer.prepare(found.folder, problem, direction, capability)
    plain = Options(check_races=False, check_initialised=False, blocks=())
    # Once without running a block, for the code and the registers that occupancy depends on.
    idle = launch(plain)
    registers, listing = read_binary(idle.binary, capability)
    x, y, z = idle.program.threads
    together = gpu.caches.blocks_together(x * y * z, idle.program.shared_bytes, registers)
    ran = launch(
        replace(plain, blocks=None, caches=gpu.caches, count=True, blocks_together=together)
    )
    pairs = zip(ran.outputs, exact(problem, direction, peer.has_softmax), strict=True)
    worst = max(relative_error(*pair, is_kinked=i == 1) for i, pair in enumerate(pairs))
    if not worst <= _WRONG * RELATIVE_NORM[call.dtype]:
        raise ValueError(
            f"{peer.name} {direction} {call.dtype} sm_{capability}: relative error {worst:.2g}"
        )
    return Row(
        direction=direction,
        dtype=str(call.dtype).removeprefix("torch."),
        capability=capability,
        gpu=gpu.caches.name,
        tile={"x": x, "y": y, "z": z, "blocks": together},
        registers=registers,
        spilled=None if listing is None else listing.spilled_bytes(),
        sass=None,
        error=worst,
        **attention.per_row(ran.counts, call, gpu, None),
    )


def exact(problem: Problem, direction: str, of_logits: bool = False) -> list[Tensor]:
    """In float64, from the numbers that the peer was given: the output, or the gradients of value,
    locations and weights, or of logits in the place of weights."""
    shapes = [(h, w) for h, w in problem.sizes.tolist()]
    value, locations, logits = (
        tensor.double().requires_grad_(direction == "backward")
        for tensor in (problem.value, problem.locations, problem.logits)
    )
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    if direction == "backward" and not of_logits:
        weights = problem.weights.double().requires_grad_()
    output = ms_deform_attn_reference(value, shapes, locations, weights)
    if direction == "forward":
        return [output]
    leaves = (value, locations, logits if of_logits else weights)
    return list(torch.autograd.grad(output, leaves, problem.grad_output.double()))


def line(name: str, row: Row) -> str:
    """One line of the table."""
    mark = " (error over ours' limit)" if row.error > RELATIVE_NORM[DTYPES[row.dtype]] else ""
    return f"{name:17}{attention.show(row)}; error {row.error:.1e}{mark}"


def main(arguments: Sequence[str] | None = None) -> int:
    import triton
    from triton.compiler.errors import CompilationError

    failures = (ValueError, Fault, EmulatedFaultError, nvcc.NvccError, CompilationError)
    parser = argparse.ArgumentParser(prog="bench.counts peers", description=__doc__.split("\n")[0])
    parser.add_argument("--sources", type=Path, nargs="+", default=[], help="folders of the peers")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--peer", default="", help="peers whose name contains this")
    parser.add_argument("--capability", type=int, nargs="+", default=list(GPUS), choices=GPUS)
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--direction", nargs="+", default=DIRECTIONS, choices=DIRECTIONS)
    parser.add_argument("--changed", action="store_true", help="what the record does not have yet")
    parser.add_argument("--output", type=Path, default=RECORD, help="record to add to")
    options = parser.parse_args(arguments)
    named = [Path(p) for p in os.environ.get("PEER_SOURCES", "").split(os.pathsep) if p]
    peers, sentence = find_peers([*options.sources, *named])
    if sentence:
        print(sentence, file=sys.stderr)
    peers = [found for found in peers if options.peer in found.peer.name]
    workloads = [name for name in WORKLOADS if options.only in name]
    if not peers or not workloads:
        print("nothing to count", file=sys.stderr)
        return 2
    left_out: list[dict[str, Any]] = []
    rates = {str(k): asdict(gpu) for k, gpu in GPUS.items()}
    store = Store(options.output, PART, KEY, rates=rates, left_out=left_out, absent=sentence)
    for name in workloads:
        print(f"{name}, per row of {WORKLOADS[name].rows:,}, emulated\n{'':17}{HEADER}")
        for found, direction, dtype, capability in product(
            peers, options.direction, options.dtype, options.capability
        ):
            peer = found.peer
            values = (name, direction, dtype, capability, peer.name)
            key = dict(zip(KEY, values, strict=True))
            is_able = dtype in peer.dtypes and direction in peer.directions
            is_able = is_able and not (peer.needs_nvcc and capability < OLDEST_OF_NVCC)
            if not is_able or (options.changed and store.has(**key)):
                continue
            call = replace(WORKLOADS[name], dtype=DTYPES[dtype])
            try:
                row = count_peer(found, call, direction, capability)
            except failures as error:
                print(f"{peer.name:17}left out: {error}", flush=True)
                left_out.append(key | {"reason": str(error)})
                store.write()
            else:
                print(line(peer.name, row), flush=True)
                made_by = {"binds": row.binds, "triton": triton.__version__}
                store.enter(key | asdict(row) | made_by)
    store.write()
    print(store.path)
    return 0
