"""The suite on a GPU: one command per part, each within eight minutes; torch, triton, numpy only.

    python -m bench.gpu --part ops              # kernels
    python -m bench.gpu --part model            # training step, inference, blocks, growth
    python -m bench.gpu --part peers            # kernels beside other projects' operators
    python -m bench.gpu --part ops --smoke      # tiny cases on any device: does everything work?

Ceilings are measured first, then correctness against float64, and only then time, by CUDA events:
medians with 20 and 80 percent quantiles, after a warm-up, with a cold cache and (kernels) in a
rotation over input sets. Sides of a case must agree before they are timed. Cases run in order of
importance; none is started once the budget is used or the run is interrupted, and the record lists
those left out. It is written to `bench/results/<device>/`, or to `--out`. The exit status is 1 if a
check failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import torch

from bench import record, table
from bench.assignment import SOLVER
from bench.case import Call, Case, Group, Side, Size, check_agreement, unique
from bench.cases import MODULES
from bench.rounding import tf32

PARTS: dict[str, tuple[Group, ...]] = {
    "ops": ("kernels",),
    "model": ("model", "blocks", "growth"),
    "peers": ("kernels",),
}
"""Groups of each part, the most important first."""
BUDGET = 420.0
"""Seconds after which no case is started."""
NO_MEMORY = "out of memory"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=tuple(PARTS), required=True)
    parser.add_argument("--out", type=Path, help="JSON record; default: a new one of this device")
    parser.add_argument("--smoke", action="store_true", help="tiny cases, any device")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds; %(default)s")
    options = parser.parse_args(arguments)
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.smoke:
        print("no GPU found; --smoke runs tiny cases on the CPU", file=sys.stderr)
        return 2
    if options.smoke and options.out is None:
        parser.error("--smoke needs --out: its numbers do not belong among the results")
    if not has_gpu:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    device = torch.device("cuda", torch.cuda.current_device()) if has_gpu else torch.device("cpu")
    found = measure(device, options.part, options.smoke, options.budget)
    path = record.write(found, options.out)
    print(f"{len(found['cases'])} cases in {found['extra']['seconds']:.0f} s: {path}")
    failed = found["extra"]["failed_checks"]
    if failed:
        print("checks failed, these are not timed:", *failed, sep="\n  ", file=sys.stderr)
    return 1 if failed else 0


def measure(device: torch.device, part: str, is_smoke: bool, budget: float) -> dict[str, Any]:
    """The whole record of a part; rows are printed as they come."""
    import kernels
    from bench import ceilings, checks
    from bench.peers import missing_peers

    start = time.perf_counter()
    if device.type == "cuda":
        import torch._dynamo

        # A compiled side is called with many shapes; beyond the default of eight, it would run
        # uncompiled without a word.
        torch._dynamo.config.recompile_limit = 256
    facts = record.machine(device)
    extra: dict[str, Any] = {
        "missing_peers": missing_peers(),
        "assignment": SOLVER,
        "clocks_before": clocks(device),
        "ceilings": ceilings.measure(device),
        "budget_seconds": budget,
        "left_out": {},
    }
    with kernels.use_backend("triton"):  # without a GPU, in the interpreter
        extra["checks"], extra["failed_checks"] = checks.run(device, is_smoke)
    rows: list[dict[str, Any]] = []
    cases, extra["unavailable_modules"] = cases_of(part, "smoke" if is_smoke else "gpu")
    if extra["failed_checks"]:
        extra["left_out"] = {case.name: "the kernels failed their checks" for case in cases}
        cases = []
    reason = "the time was used up"
    for case in cases:
        if time.perf_counter() - start > budget:
            extra["left_out"][case.name] = reason
            continue
        try:
            row = run_case(case, device, part, extra["ceilings"])
        except KeyboardInterrupt:
            extra["left_out"][case.name] = reason = "the run was interrupted"
            budget = 0.0
            continue
        except AssertionError as error:  # sides that do not do the same work
            extra["failed_checks"].append(str(error))
            continue
        if "ours" in row["sides"]:
            rows.append(row)
            print("\n".join(table.lines_of(row)), flush=True)
            continue
        why = row["left_out"].get("ours")
        extra["left_out"][case.name] = why or "needs what is not here"
        if why not in (None, NO_MEMORY):
            extra["failed_checks"].append(f"{case.name}: ours failed: {why}")
    extra["clocks_after"] = clocks(device)
    extra["seconds"] = time.perf_counter() - start
    return record.new_record(part, facts, rows, **extra)


def cases_of(part: str, size: Size) -> tuple[list[Case], dict[str, str]]:
    """Cases of a part in order of importance, and modules that cannot be imported here, with the
    reason. Cases are declared in that order for each operator; operators of a group take turns."""
    unavailable = {}
    declared: list[Case] = []
    for name in MODULES:
        try:
            declared += import_module(f"bench.cases.{name}").cases(size)
        except ModuleNotFoundError as error:
            unavailable[name] = str(error)
    ordered: list[Case] = []
    for group in PARTS[part]:
        by_op: dict[str, list[Case]] = {}
        for case in unique(iter(declared)):
            has_peers = any(side.is_peer for side in case.sides)
            if case.group == group and (has_peers or part != "peers"):
                by_op.setdefault(case.op, []).append(case)
        in_turns = chain.from_iterable(zip_longest(*by_op.values()))
        ordered += [case for case in in_turns if case is not None]
    return ordered, unavailable


def run_case(
    case: Case, device: torch.device, part: str, ceilings: dict[str, float]
) -> dict[str, Any]:
    """A case's row, with `left_out`: sides that ran out of memory or failed, and why; without ours
    there are no sides in it.

    Raises: AssertionError: sides disagree.
    """
    sides = case.sides_on(device, peers=part == "peers")
    left_out: dict[str, str] = {}
    reference: dict[str, Any] = {}
    with tf32(False, False):  # PyTorch's default rounds convolutions, which is for the timing only
        for side in sorted(sides, key=lambda side: side.name != case.baseline):
            output = _attempt(lambda side=side: side.build(device)(), side, left_out, device)
            if side.name not in left_out:
                reference = reference or {side.name: output}
                check_agreement(case, reference | {side.name: output})
            del output
    del reference
    found = {}
    for side in sides:
        if side.name not in left_out:
            row = _attempt(lambda side=side: time_side(case, side, device), side, left_out, device)
            if row is not None:
                found[side.name] = row
    if "ours" not in found:
        return {"sides": {}, "left_out": left_out}
    row = record.case_row(case, found) | {"left_out": left_out}
    if case.op.startswith("msda"):
        from bench.cases.msda import fractions

        ours = row["sides"]["ours"]
        ours["more"] |= fractions(case, ours["seconds"]["median"], ceilings)
    return row


def _attempt(call: Call, side: Side, left_out: dict[str, str], device: torch.device) -> Any:
    """What the call gives; if it fails, None, and the reason is in `left_out`.

    A peer that was built for another version, or a compiler that is not there, must not cost the
    time on a lent GPU that all other measurements took.
    """
    try:
        return call()
    except torch.OutOfMemoryError:
        left_out[side.name] = NO_MEMORY
    except Exception as error:
        left_out[side.name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return None


def time_side(case: Case, side: Side, device: torch.device) -> dict[str, Any]:
    """A side's part of the row."""
    from bench import launches, timing

    call = side.build(device)
    if device.type == "cuda":
        call()
    more: dict[str, Any] = launches.counts(call, device)
    seconds = timing.cold(call, device)
    peak = timing.peak_bytes(call, device) if case.memory else None
    if device.type != "cuda":
        return record.side_row(seconds, "process", peak, **more)
    if case.group == "kernels" and case.cost.bytes is not None:
        copies = timing.copies_for_steady(case.cost.bytes, device)
        calls = [call, *(side.build(device) for _ in range(copies - 1))]
        more["cuda steady"] = record.summary(timing.steady(calls, device))
    return record.side_row(seconds, "cuda cold", peak, **more)


def clocks(device: torch.device) -> dict[str, str | None]:
    """Of the processors and the memory, in MHz, as the driver reports them now."""
    if device.type != "cuda":
        return {}
    names = ("clocks.sm", "clocks.mem", "clocks.max.sm")
    return {
        name: record.output_of("nvidia-smi", f"--query-gpu={name}", "--format=csv,noheader")
        for name in names
    }


if __name__ == "__main__":
    from seqformer.command import exit_with

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit is an interruption
    exit_with("bench.gpu", main)
