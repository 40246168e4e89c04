"""Scoring a results file as a user does it: the whole command, from the start of its process.

    SEQFORMER_COCOAPI=.../PythonAPI python -m bench.scorer

`seqformer eval --results` and the official evaluator take turns on files of validation size, with
ground truth as run lengths and compressed, in fresh processes of one thread; then the command alone
on a million results, with one thread and with two. Processor seconds and peak memory are those that
the system counts for a process and its children. The numbers of both are compared to 1e-9. Needs
Linux or macOS.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from bench.baselines.official_scorer import VARIABLE
from bench.suite.record import case_row, machine, new_record, side_row, write
from bench.suite.schema import Case, Side
from bench.suite.scorer_files import NUM_VIDEOS, RESULTS_PER_VIDEO, draw_files, draw_many
from bench.suite.scratch import drawn

ROOT = Path(__file__).parents[1]
MIB = 2**20
AP_ONLY = "--ap-only"
"""As the official evaluator, which has no tracking metrics."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the command that scores, beside the official evaluator."""

    rounds: int = 5
    """Runs of every side, in turns."""
    results: int = 1_000_000
    """Of the large file."""
    out: Path | None = None
    """Record to write; by default a new one of this device."""


@dataclass(frozen=True)
class Usage:
    """Of one process."""

    cpu_seconds: float
    peak_bytes: int


LAUNCHER = """
import json, os, sys
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, used = os.wait4(pid, 0)
values = [used.ru_utime + used.ru_stime, used.ru_maxrss]
with open(sys.argv[1], "w") as file:
    json.dump(values, file)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A process counts the memory of the one that it was forked from: here that is a small one."""


def run(command: list[str]) -> Usage:
    """Run a command of one BLAS thread to its end. Raises: RuntimeError with what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "usage.json"
        launched = [sys.executable, "-c", LAUNCHER, str(report), *command]
        done = subprocess.run(launched, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
        seconds, peak = json.loads(report.read_text())
    return Usage(seconds, peak * (1 if sys.platform == "darwin" else 1024))


def ours(folder: Path, metrics: Path, threads: int = 1, with_tracking: bool = False) -> list[str]:
    """The command that scores the files of a folder."""
    paths = ["--results", folder / "results.json", "--annotations", folder / "annotations.json"]
    words = [*paths, "--metrics", metrics, "--threads", threads]
    more = [] if with_tracking else [AP_ONLY]
    return [sys.executable, "eval.py", *map(str, words), *more]


def official(folder: Path) -> list[str]:
    """The same of the official evaluator."""
    module = "bench.baselines.official_scorer"
    files = [str(folder / f"{name}.json") for name in ("annotations", "results")]
    return [sys.executable, "-m", module, *files]


def measure(name: str, folder: Path, rounds: int, sides: dict[str, list[str]]) -> dict[str, Any]:
    """A case of the record: all sides in turns, after one run each that is not counted."""
    used: dict[str, list[Usage]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side, command in sides.items():
            usage = run(command)
            if number:
                used[side].append(usage)
    rows = {
        side: side_row([u.cpu_seconds for u in some], "process", max(u.peak_bytes for u in some))
        for side, some in used.items()
    }
    size = sum(file.stat().st_size for file in folder.glob("*.json")) / MIB
    print(f"{name}, {size:.0f} MiB of files")
    for side, row in rows.items():
        seconds, peak = row["seconds"]["median"], row["peak_bytes"] / MIB
        print(f"  {side:10} {seconds:6.3f} CPU s, peak {peak:5.0f} MiB", flush=True)
    idle = tuple(Side(name=side, build=lambda _: lambda: None) for side in sides)
    case = Case(
        name=name,
        op="scorer command",
        group="scoring",
        shapes={},
        sides=idle,
        rounds=rounds,
        baseline=list(sides)[-1],
    )
    return case_row(case, rows)


def check(folder: Path, metrics: Path) -> None:
    """Raises: AssertionError when the numbers of both differ by more than 1e-9."""
    mine = [v for name, v in json.loads(metrics.read_text()).items() if name != "per_class"]
    done = subprocess.run(official(folder), cwd=ROOT, capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) < 1e-9, (mine, theirs)


def main(options: Options) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        metrics = Path(scratch) / "metrics.json"
        for form in ("runs", "text"):
            folder = drawn(draw_files, form, NUM_VIDEOS)
            sides = {"ours": ours(folder, metrics)}
            sides["with HOTA"] = ours(folder, Path(scratch) / "hota.json", with_tracking=True)
            if VARIABLE in os.environ:
                sides["published"] = official(folder)
            truth = "run lengths" if form == "runs" else "compressed"
            number = NUM_VIDEOS * RESULTS_PER_VIDEO
            name = f"scorer command, {number} results, truth {truth}"
            rows.append(measure(name, folder, options.rounds, sides))
            if VARIABLE in os.environ:
                check(folder, metrics)
        folder = drawn(draw_many, options.results)
        sides = {"ours": ours(folder, metrics), "two threads": ours(folder, metrics, 2)}
        name = f"scorer command, {options.results} results"
        rows.append(measure(name, folder, options.rounds, sides))
    print(write(new_record("scorer", machine(torch.device("cpu")), rows), options.out))


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.scorer", lambda: main(tyro.cli(Options)))
