"""Deformable attention of other projects beside ours: compiled code run on the emulator, counted.

    python -m bench.peer_counts --sources DeformableDETR DCNv4 deformops-wheel
    python -m bench.peer_counts --only 'encoder 360' --capability 80 --dtype float32

The workloads, columns and rates are those of `bench.counts`; every output is compared with float64.
Sources are looked for below `--sources` and the folders in PEER_SOURCES. A peer's row has the whole
launch of its operator and nothing around it: what it leaves to other kernels (placing samples, for
some the softmax) is not in its bound, which is too low by that. Its machine instructions are not
counted, since its loops end where the data say: its bound of issue is by instructions of PTX.
Records say "emulated" and lie under bench/results/emulated/.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import counts, nvcc, record
from bench.counts import DIRECTIONS, GPUS, HEADER, WORKLOADS, Row
from bench.emulator import Fault, Options
from bench.emulator.session import EmulatedFaultError
from bench.msda_calls import MSDACall
from bench.peer_code import PEERS, Peer, Problem
from bench.tolerances import RELATIVE_NORM
from kernels import ms_deform_attn_reference

OURS = "ours"
DTYPES = counts.DTYPES | {"float16": torch.float16}
CAPABILITIES = tuple(capability for capability in GPUS if capability >= 80)
"""nvcc has no code for older ones."""

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
    registers, listing = counts.read_binary(idle.binary, capability)
    x, y, z = idle.program.threads
    together = gpu.caches.blocks_together(x * y * z, idle.program.shared_bytes, registers)
    ran = launch(
        replace(plain, blocks=None, caches=gpu.caches, count=True, blocks_together=together)
    )
    pairs = zip(ran.outputs, exact(problem, direction, peer.has_softmax), strict=True)
    worst = max(counts.relative_error(*pair, is_kinked=i == 1) for i, pair in enumerate(pairs))
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
        **counts.per_row(ran.counts, call, gpu, None),
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


def count_all(
    call: MSDACall, direction: str, capability: int, peers: Sequence[Found]
) -> Iterator[tuple[str, Row | str]]:
    """Ours, then each peer that has the type and direction, or why its code did not pass."""
    dtype = str(call.dtype).removeprefix("torch.")
    able = [f for f in peers if dtype in f.peer.dtypes and direction in f.peer.directions]
    if able:
        yield OURS, counts.count(call, direction, capability)
    for found in able:
        try:
            yield found.peer.name, count_peer(found, call, direction, capability)
        except (ValueError, Fault, EmulatedFaultError, nvcc.NvccError) as error:
            yield found.peer.name, str(error)


def line(name: str, row: Row) -> str:
    """One line of the table."""
    mark = " (error over ours' limit)" if row.error > RELATIVE_NORM[DTYPES[row.dtype]] else ""
    return f"{name:17}{counts.show(row)}; error {row.error:.1e}{mark}"


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a record."""
    return json.loads(path.read_text(encoding="utf-8"))["extra"]["rows"]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("workload", "direction", "dtype", "capability", "side"))


def _bound(row: dict[str, Any]) -> float:
    """Records of a time when every side was one launch do not say it."""
    return row.get("bound", row["bounds"][row["binds"]])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of a record as Markdown, grouped by launch and in order of the bound."""
    columns = "| | PTX | SASS | requests | wavefronts | L1 hit | shared | stored | atomics | L2 |"
    lines = [f"{columns} DRAM MB | bound us | error |", "|" + "---|" * 13]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_key(row)[:4], []).append(row)
    for (workload, direction, dtype, _), group in groups.items():
        title = f"{workload}, {direction} {dtype}, {group[0]['gpu']}"
        lines.append(f"| *{title}* |" + " |" * 12)
        for row in sorted(group, key=_bound):
            sass = "-" if row["sass"] is None else f"{row['sass']:.0f}"
            name = f"**{OURS}**" if row["side"] == OURS else row["side"]
            lines.append(
                f"| {name} | {row['ptx']:.0f} | {sass} | {row['requests']:.1f} "
                f"| {row['wavefronts']:.1f} | {row['l1_hit']:.0%} | {row['shared']:.1f} "
                f"| {row['stored']:.1f} "
                f"| {row['atomics']:.0f}/{row['atomic_sectors']:.0f}/{row['added']:.0f} "
                f"| {row['l2_reads']:.0f} | {row['dram_read']:.1f}+{row['dram_write']:.1f} "
                f"| {_bound(row):.0f} ({row['binds']}) | {row['error']:.0e} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sources", type=Path, nargs="+", default=[], help="folders of the peers")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--peer", default="", help="peers whose name contains this")
    parser.add_argument("--capability", type=int, nargs="+", default=CAPABILITIES, choices=GPUS)
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--direction", nargs="+", default=DIRECTIONS, choices=DIRECTIONS)
    parser.add_argument(
        "--output", type=Path, help="record to write or to add to, by default a new one"
    )
    parser.add_argument("--table", type=Path, metavar="RECORD", help="print its rows and end")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(rows_of(options.table)))
        return 0
    named = [Path(p) for p in os.environ.get("PEER_SOURCES", "").split(os.pathsep) if p]
    peers, sentence = find_peers([*options.sources, *named])
    if sentence:
        print(sentence, file=sys.stderr)
    peers = [found for found in peers if options.peer in found.peer.name]
    workloads = [name for name in WORKLOADS if options.only in name]
    if not peers or not workloads:
        print("nothing to count", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    rates = {str(k): asdict(GPUS[k]) for k in CAPABILITIES}
    extra = {"rates": rates, "rows": rows, "left_out": left_out, "absent": sentence}
    made = record.new_record("emulated-peers", record.machine(torch.device("cpu")), [], **extra)
    path = options.output or record.RESULTS / "emulated" / record.default_path(made).name
    before = rows_of(path) if path.exists() else []
    for name in workloads:
        print(f"{name}, per row of {WORKLOADS[name].rows:,}, emulated\n{'':17}{HEADER}")
        for direction in options.direction:
            for dtype in options.dtype:
                call = replace(WORKLOADS[name], dtype=DTYPES[dtype])
                for capability in options.capability:
                    for side, row in count_all(call, direction, capability, peers):
                        entry = {"workload": name, "side": side}
                        if isinstance(row, str):
                            print(f"{side:17}left out: {row}", flush=True)
                            left_out.append(entry | {"reason": row})
                        else:
                            print(line(side, row), flush=True)
                            rows.append(entry | asdict(row) | {"binds": row.binds})
                        new = {_key(row) for row in rows}
                        both = [row for row in before if _key(row) not in new] + rows
                        made["extra"]["rows"] = both
                        made["machine"]["emulated"] = sorted({row["capability"] for row in both})
                        record.write(made, path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
