"""Run every kernel's compiled code on a CPU, as a GPU would, and check it against float64.

    python -m bench.emulate                              # every launch of the model, eight GPUs
    python -m bench.emulate --quick --capability 80 90   # what the tests run
    python -m bench.emulate --full --only msda           # other models' sizes and random problems
    python -m bench.emulate --record                     # to bench/results/emulated/proofs.json
    python -m bench.emulate --record --changed           # only what the record does not have

Triton binds, specialises and compiles as for a GPU; the emulator runs the PTX and watches: bounds,
alignment, memory that no one wrote, races, barriers. Blocks and warps run in a random order,
approximate instructions at their worst documented error. Outputs and all gradients are compared
with float64 within the limits of the tests. The last line counts launches and faults; the exit
status is 1 if there is any.

A record that exists is added to: a proof that runs again replaces its row, and rows say which
commit they are of. `--changed` runs the proofs that have no row yet, or failed, or launch a kernel
whose code is another one since; changes of the launchers alone it does not see.

With another Triton, run the same command with the Python of its environment.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parent / "results" / "emulated" / "proofs.json"
CAPABILITIES = (70, 75, 80, 86, 89, 90, 100, 120)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    os.environ.pop("TRITON_INTERPRET", None)
    from bench.offline.emulator.proofs import all_proofs

    proofs = [p for p in all_proofs(options.extent) if any(word in p.name for word in options.only)]
    if not proofs:
        names = ", ".join(map(repr, options.only))
        print(f"no proof's name contains {names}", file=sys.stderr)
        return 2
    start = time.perf_counter()
    before = {} if options.output is None else known_rows(options.output, options.extent)
    unchanged = rows_of_the_same_code(before) if options.changed else {}
    rows: dict[tuple[str, int], Any] = {}
    for row in run(proofs, options, set(unchanged)):
        print(show(row), flush=True)
        rows[row.name, row.capability] = row
        # Proofs that are not asked for keep their rows.
        if options.output is not None:
            write_record([*(before | rows).values()], options)
    asked = {(proof.name, c) for proof in proofs for c in options.capability}
    whole = rows | {key: row for key, row in unchanged.items() if key in asked}
    missing = [] if any(options.only) else missing_launches(whole.values(), options)
    for launch in missing:
        print(f"no proof launches {launch}")
    if options.output is not None:
        write_record([*(before | rows).values()], options, missing)
    print(summary(whole.values(), len(whole) - len(rows), len(missing), start))
    return 1 if missing or any(row.fault is not None for row in whole.values()) else 0


def run(proofs: Sequence[Any], options: argparse.Namespace, known: set[Any]) -> Iterator[Any]:
    """Rows of all proofs on all GPUs, but of those that are known."""
    from bench.offline.emulator import Options
    from bench.offline.emulator.proofs import run_proof
    from bench.offline.emulator.session import emulated
    from bench.suite import record

    commit = record.output_of("git", "rev-parse", "--short", "HEAD")
    how = Options(order="random", seed=options.seed, worst_approximation=True)
    for capability in options.capability:
        asked = [proof for proof in proofs if (proof.name, capability) not in known]
        with emulated(capability) as gpu:
            for proof in asked:
                row = run_proof(gpu, proof, how)
                row.commit = commit
                yield row


def summary(rows: Any, unchanged: int, missing: int, start: float) -> str:
    """The last line."""
    launches = sum(sum(row.launches.values()) for row in rows)
    kernels = {code for row in rows for code in row.code.values()}
    faults = sum(row.fault is not None for row in rows) + missing
    kept = f", {unchanged} of them unchanged" if unchanged else ""
    return (
        f"{len(rows)} proofs{kept} in {time.perf_counter() - start:.0f} s, {launches} launches of "
        f"{len(kernels)} kernels, {faults} faults"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--capability", type=int, nargs="+", default=list(CAPABILITIES), choices=CAPABILITIES
    )
    parser.add_argument("--only", nargs="+", default=[""], help="proofs whose name contains one")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick", dest="extent", action="store_const", const="quick", help="a choice of proofs"
    )
    extent.add_argument(
        "--full", dest="extent", action="store_const", const="full", help="other models too"
    )
    parser.set_defaults(extent="default")
    parser.add_argument("--seed", type=int, default=0, help="of the order of blocks and warps")
    parser.add_argument("--output", type=Path, help="record to write or to add to")
    parser.add_argument(
        "--record",
        dest="output",
        action="store_const",
        const=RECORD,
        help=f"the same, {RECORD.name}",
    )
    parser.add_argument("--changed", action="store_true", help="what the record does not have yet")
    options = parser.parse_args(arguments)
    if options.changed and options.output is None:
        parser.error("--changed needs a record: --record or --output")
    return options


def known_rows(path: Path, extent: str) -> dict[tuple[str, int], Any]:
    """(proof, capability) -> row of a record by this Triton, of proofs that there still are."""
    import triton

    from bench.offline.emulator.proofs import Row, all_proofs

    if not path.exists():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["machine"]["triton"] != triton.__version__:
        return {}
    names = {proof.name for proof in all_proofs("full")}
    rows = (Row(**row) for row in record["cases"])
    return {(row.name, row.capability): row for row in rows if row.name in names}


def rows_of_the_same_code(rows: dict[tuple[str, int], Any]) -> dict[tuple[str, int], Any]:
    """Those without a fault whose kernels, whatever they are called, and launches are as now."""
    from bench.offline.emulator.coverage import code_digests, launch_digest

    present = set(code_digests().values())
    return {
        key: row
        for key, row in rows.items()
        if row.fault is None
        and set(row.code.values()) <= present
        and row.launched_by == launch_digest(row.capability)
    }


def missing_launches(rows: Any, options: argparse.Namespace) -> list[str]:
    """Kernels of the package that were not launched, and beyond the quick proofs forms of the
    model's launches."""
    from bench.offline.emulator.coverage import code_digests, model_forms

    missing = []
    for capability in options.capability:
        own = [row for row in rows if row.capability == capability]
        launched = {code for row in own for code in row.code.values()}
        absent = sorted(name for name, code in code_digests().items() if code not in launched)
        if options.extent != "quick":
            covered = {form for row in own for form in row.forms}
            absent += [c.name for c in model_forms(capability) if c.name not in covered]
        missing += [f"{launch} on sm_{capability}" for launch in absent]
    return missing


def show(row: Any) -> str:
    """One line, and the fault below."""
    launches = sum(row.launches.values())
    line = (
        f"sm_{row.capability:<4}{row.name:58}{launches:4} launches{row.compilations:4} compiled"
        f"{row.instructions:12,} instructions{row.seconds:7.1f} s  "
    )
    return line + ("ok" if row.fault is None else "FAULT\n    " + row.fault.replace("\n", "\n    "))


def write_record(
    rows: Sequence[Any], options: argparse.Namespace, missing: Sequence[str] = ()
) -> None:
    """The rows as a record, each on a line; `part` is "emulated", and no time in it is a GPU's."""
    import torch

    from bench.suite import record
    from seqformer.files import write_text

    facts = record.machine(torch.device("cpu"))
    facts["emulated"] = sorted({row.capability for row in rows})
    extra = {
        "extent": options.extent,
        "seed": options.seed,
        "missing": list(missing),
        "faults": sum(row.fault is not None for row in rows) + len(missing),
        "seconds": round(sum(row.seconds for row in rows), 1),
    }
    made = record.new_record("emulated", facts, ["ROWS"], **extra)
    found = sorted(rows, key=lambda row: row.capability)
    lines = ",\n".join("  " + json.dumps(_rounded(row)) for row in found)
    text = json.dumps(made, indent=1).replace('"ROWS"', lines.lstrip())
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.output, text + "\n")


def _rounded(row: Any) -> dict[str, Any]:
    times = {"seconds": round(row.seconds, 2), "emulated": round(row.emulated, 2)}
    return asdict(row) | times


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.emulate", main)
