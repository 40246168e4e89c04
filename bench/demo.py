"""The demo from end to end: its AP and time on one and on two processes, and in half precision.

    python -m bench.demo                # some ten minutes on two cores

Runs the commands of the README (`train.py demo`, the same under torchrun, `eval.py --precision`) in
a temporary folder, one after the other. The record has a case for each, with its wall time, and
under `more` what was scored on the held-out videos.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from bench.suite.record import case_row, machine, new_record, side_row, write
from bench.suite.schema import Case, Side

REPOSITORY = Path(__file__).resolve().parent.parent
SCORES = ("AP", "AP50", "AP75")
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run the demo and record its AP and its time."""

    processes: tuple[int, ...] = (1, 2)
    """Numbers of one-thread processes; more than one are started by torchrun."""
    precisions: tuple[str, ...] = tuple(PRECISIONS)
    """Of `eval.py` with the weights of the first run."""
    arguments: str = ""
    """More arguments of `train.py demo`, in one text."""
    out: Path | None = None
    """Record to write; default: a new one of this device."""


def run(*command: str) -> float:
    """Wall seconds of a command of the checkout, on one thread a process.

    Raises: RuntimeError: it failed; the message ends with what it said last.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-5:])
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{last}")
    return time.perf_counter() - start


def train(processes: int, folder: Path, options: Options) -> dict[str, Any]:
    """The demo on a number of processes: a row of the record."""
    launcher: tuple[str, ...] = ("train.py",)
    if processes > 1:
        torchrun = ("-m", "torch.distributed.run", "--standalone")
        launcher = (*torchrun, "--nproc-per-node", str(processes), "train.py")
    more = options.arguments.split()
    if processes == 1:
        more += ["--processes", "1"]
    seconds = run(*launcher, "demo", "--device", "cpu", "--output", str(folder), *more)
    case = Case(
        name=f"demo on {processes} process{'es' * (processes > 1)}",
        op="demo",
        group="model",
        sides=(Side(name="ours", build=lambda _: lambda: None),),
        rounds=1,
    )
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    scores = {name: metrics[name] for name in SCORES}
    return case_row(case, {"ours": side_row([seconds], "wall", processes=processes, **scores)})


def evaluate(precision: str, folder: Path) -> dict[str, Any]:
    """The held-out videos in a precision, with the weights of a run: a row of the record."""
    result = folder / f"{precision}.json"
    metrics = folder / f"{precision}-metrics.json"
    seconds = run(
        "eval.py",
        *("--weights", str(folder / "model.safetensors"), "--device", "cpu"),
        *("--images", str(folder / "data" / "val" / "JPEGImages")),
        *("--annotations", str(folder / "data" / "annotations" / "instances_val.json")),
        *("--precision", precision, "--output", str(result), "--metrics", str(metrics)),
    )
    case = Case(
        name=f"demo evaluated in {PRECISIONS[precision]}",
        op="demo evaluation",
        group="model",
        dtype=PRECISIONS[precision],
        sides=(Side(name="ours", build=lambda _: lambda: None),),
        rounds=1,
    )
    scored = json.loads(metrics.read_text(encoding="utf-8"))
    scores = {name: scored[name] for name in SCORES}
    return case_row(case, {"ours": side_row([seconds], "wall", **scores)})


def rows_of(options: Options, root: Path) -> Iterator[dict[str, Any]]:
    """All runs, in `root`."""
    folders = [root / f"demo-{count}" for count in options.processes]
    for count, folder in zip(options.processes, folders, strict=True):
        yield train(count, folder, options)
    for precision in options.precisions:
        yield evaluate(precision, folders[0])


def main(options: Options) -> None:
    facts, rows = machine(torch.device("cpu")), []
    with tempfile.TemporaryDirectory() as root:
        for row in rows_of(options, Path(root)):
            side = row["sides"]["ours"]
            scores = ", ".join(f"{name} {side['more'][name]:.4f}" for name in SCORES)
            print(f"{row['name']}: {scores}, {side['seconds']['median']:.0f} s", flush=True)
            rows.append(row)
    print(write(new_record("demo", facts, rows), options.out))


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.demo", lambda: main(tyro.cli(Options)))
