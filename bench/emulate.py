"""Run every kernel's compiled code on a CPU, as a GPU would, and check it against float64.

    python -m bench.emulate                              # every launch of the model, eight GPUs
    python -m bench.emulate --quick --capability 80 90   # what the tests run
    python -m bench.emulate --full --only msda           # other models' sizes and random problems
    python -m bench.emulate --output record.json         # a record, labelled emulated

Triton binds, specialises and compiles as for a GPU; the emulator runs the PTX and watches: bounds,
alignment, memory that no one wrote, races, barriers. Blocks and warps run in a random order,
approximate instructions at their worst documented error. Outputs and all gradients are compared
with float64 within the limits of the tests. The last line counts launches and faults; the exit
status is 1 if there is any.

With another Triton, run the same command with the Python of its environment.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    os.environ.pop("TRITON_INTERPRET", None)
    from bench.emulator import Options
    from bench.emulator.proofs import all_proofs, run_proof
    from bench.emulator.session import emulated

    proofs = all_proofs(options.extent, options.only)
    if not proofs:
        print(f"no proof's name contains {options.only!r}", file=sys.stderr)
        return 2
    how = Options(order="random", seed=options.seed, worst_approximation=True)
    start, rows, missing = time.perf_counter(), [], []
    for capability in options.capability:
        with emulated(capability) as gpu:
            for proof in proofs:
                rows.append(run_proof(gpu, proof, how))
                print(show(rows[-1]), flush=True)
        if not options.only:
            missing += missing_launches(gpu, options.extent)
    for launch in missing:
        print(f"no proof launches {launch}")
    if options.output is not None:
        write_record(rows, missing, options, time.perf_counter() - start)
    launches = sum(sum(row.launches.values()) for row in rows)
    kernels = {kernel for row in rows for kernel in row.launches}
    faults = sum(row.fault is not None for row in rows) + len(missing)
    print(
        f"{len(rows)} proofs in {time.perf_counter() - start:.0f} s, {launches} launches of "
        f"{len(kernels)} kernels, {faults} faults"
    )
    return 1 if faults else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    capabilities = (70, 75, 80, 86, 89, 90, 100, 120)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--capability", type=int, nargs="+", default=list(capabilities), choices=capabilities
    )
    parser.add_argument("--only", default="", help="proofs whose name contains this")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick", dest="extent", action="store_const", const="quick", help="a choice of proofs"
    )
    extent.add_argument(
        "--full", dest="extent", action="store_const", const="full", help="other models too"
    )
    parser.set_defaults(extent="default")
    parser.add_argument("--seed", type=int, default=0, help="of the order of blocks and warps")
    parser.add_argument("--output", type=Path, help="JSON record; by default none is written")
    return parser.parse_args(arguments)


def missing_launches(gpu: Any, extent: str) -> list[str]:
    """Kernels of the package that were not launched, and beyond the quick proofs forms of the
    model's launches."""
    from bench.emulator.coverage import launched_kernels, missing_forms

    missing = sorted(launched_kernels() - gpu.kernels)
    if extent != "quick":
        missing += missing_forms(gpu.capability, gpu.launches)
    return [f"{launch} on sm_{gpu.capability}" for launch in missing]


def show(row: Any) -> str:
    """One line, and the fault below."""
    launches = sum(row.launches.values())
    line = (
        f"sm_{row.capability:<4}{row.name:58}{launches:4} launches{row.compilations:4} compiled"
        f"{row.instructions:12,} instructions{row.seconds:7.1f} s  "
    )
    return line + ("ok" if row.fault is None else "FAULT\n    " + row.fault.replace("\n", "\n    "))


def write_record(
    rows: Sequence[Any], missing: Sequence[str], options: argparse.Namespace, seconds: float
) -> None:
    """The rows as a record; `part` is "emulated", and no time in it is a GPU's."""
    import torch

    from bench import record

    facts = record.machine(torch.device("cpu")) | {"emulated": sorted(set(options.capability))}
    extra = {
        "extent": options.extent,
        "only": options.only,
        "seed": options.seed,
        "missing": list(missing),
        "seconds": round(seconds, 1),
    }
    found = record.new_record("emulated", facts, [asdict(row) for row in rows], **extra)
    record.write(found, options.output)


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.emulate", main)
