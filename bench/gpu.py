"""The suite on a GPU: one command per part, each within eight minutes; torch, triton, numpy only.

    python -m bench.gpu --part first            # what to know first: see bench/suite/first.py
    python -m bench.gpu --part ops              # kernels
    python -m bench.gpu --part model            # training step, inference, blocks, growth
    python -m bench.gpu --part peers            # kernels beside other projects' operators
    python -m bench.gpu --part ops --smoke      # tiny cases on any device: does everything work?

Ceilings are measured first, then correctness against float64, and only then time, by CUDA events:
medians with 20 and 80 percent quantiles, after a warm-up, with a cold cache and (kernels) in a
rotation over input sets. Sides of a case must agree before they are timed. Cases run in order of
importance; none is started once the budget is used or the run is interrupted, and the record lists
those left out. It is written after every case, to `bench/results/<device>/` or to `--out`, and what
failed is an entry of it. The exit status is 1 if a check or anything else failed.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import torch

from bench.report import terminal
from bench.suite import record
from bench.suite.assignment import SOLVER
from bench.suite.cases import MODULES
from bench.suite.rounding import tf32
from bench.suite.run import ALWAYS, Run, release, sentence
from bench.suite.schema import Call, Case, Group, Side, Size, check_agreement, unique

PARTS: dict[str, tuple[Group, ...]] = {
    "first": ("kernels", "model"),
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
    parser.add_argument("--budget", type=float, help=f"seconds; {BUDGET:.0f} unless given")
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
    budget = BUDGET if options.budget is None else options.budget
    new = record.new_record(options.part, record.machine(device), [])
    path = options.out or record.default_path(new)
    extra = measure(Run(new, path, budget), device, options.smoke)["extra"]
    print(f"{len(new['cases'])} cases in {extra['seconds']:.0f} s: {path}")
    for title, found in (
        ("checks failed, these are not timed:", extra["failed_checks"]),
        ("failed:", [f"{name}: {why}" for name, why in extra["failures"].items()]),
    ):
        if found:
            print(title, *found, sep="\n  ", file=sys.stderr)
    return 1 if extra["failed_checks"] or extra["failures"] else 0


def measure(run: Run, device: torch.device, is_smoke: bool) -> dict[str, Any]:
    """The whole record of a part; rows are printed as they come, and written."""
    import kernels
    from bench.baselines.peers import missing_peers
    from bench.suite import ceilings, checks, first

    extra, part = run.extra, run.record["part"]
    extra |= {"assignment": SOLVER, "failed_checks": [], "checks": [], "ceilings": {}}
    if device.type == "cuda":
        import torch._dynamo

        # A compiled side is called with many shapes; beyond the default of eight, it would run
        # uncompiled without a word.
        torch._dynamo.config.recompile_limit = 256
    extra["missing_peers"] = run.stage("peers", missing_peers, ALWAYS)
    extra["clocks_before"] = run.stage("clocks before", partial(clocks, device), ALWAYS)
    found = run.stage("cases", partial(cases_of, part, "smoke" if is_smoke else "gpu"), ALWAYS)
    cases, extra["unavailable_modules"] = found or ([], {})

    def time_case(case: Case) -> None:
        enter(run, case, run_case(case, device, part, extra["ceilings"]))

    if part == "first":
        first.measure(run, device, is_smoke, cases, time_case)
    else:
        for name, call in ceilings.measurements(device).items():
            value = run.stage(f"ceiling {name}", call)
            if value is not None:
                extra["ceilings"][name] = value
                run.save()
        with kernels.use_backend("triton"):  # without a GPU, in the interpreter
            checks.run_all(run, device, is_smoke)
        if extra["failed_checks"]:
            extra["left_out"] |= {c.name: "the kernels failed their checks" for c in cases}
            cases = []
        for case in cases:
            run.stage(case.name, partial(time_case, case))
    for case in cases:
        if case.name in extra["failures"]:
            extra["failed_checks"].append(f"{case.name}: {extra['failures'][case.name]}")
    extra["clocks_after"] = run.stage("clocks after", partial(clocks, device), ALWAYS)
    run.save()
    return run.record


def enter(run: Run, case: Case, row: dict[str, Any]) -> None:
    """A case's row into the record, or why there is none."""
    if "ours" in row["sides"]:
        run.record["cases"].append(row)
        print("\n".join(terminal.lines_of(row)), flush=True)
        return
    why = row["left_out"].get("ours")
    run.extra["left_out"][case.name] = why or "needs what is not here"
    if why not in (None, NO_MEMORY):
        run.extra["failed_checks"].append(f"{case.name}: ours failed: {why}")


def cases_of(part: str, size: Size) -> tuple[list[Case], dict[str, str]]:
    """Cases of a part in order of importance, and modules that cannot be imported here, with the
    reason. Cases are declared in that order for each operator; operators of a group take turns."""
    unavailable = {}
    declared: list[Case] = []
    for name in MODULES:
        try:
            declared += import_module(f"bench.suite.cases.{name}").cases(size)
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
    return (first_of(ordered) if part == "first" else ordered), unavailable


def first_of(cases: list[Case]) -> list[Case]:
    """Of a part's cases those of `first.TIMED`, then the other kernels; without slow sides."""
    from bench.suite.first import SLOW_SIDES, TIMED

    chosen = []
    for pattern in TIMED:
        fitting = (case for case in cases if re.fullmatch(pattern, case.name))
        chosen += [case for case in [next(fitting, None)] if case is not None]
    rest = [case for case in cases if case.group == "kernels" and case not in chosen]
    return [
        replace(case, sides=tuple(side for side in case.sides if side.name not in SLOW_SIDES))
        for case in [*chosen, *rest]
    ]


def run_case(
    case: Case, device: torch.device, part: str, ceilings: dict[str, float]
) -> dict[str, Any]:
    """A case's row, with `left_out`: sides that ran out of memory or failed, and why; without ours
    there are no sides in it.

    Raises: AssertionError: sides disagree.
    """
    sides = case.sides_on(device, peers=part in ("peers", "first"))
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
        from bench.suite.cases.msda import fractions

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
        left_out[side.name] = sentence(error)
    finally:
        trouble = release(device)
        if trouble is not None:
            left_out.setdefault(side.name, trouble)
    return None


def time_side(case: Case, side: Side, device: torch.device) -> dict[str, Any]:
    """A side's part of the row."""
    from bench.suite import launches, timing

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
