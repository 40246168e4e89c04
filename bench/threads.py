"""What more cores can give: the share of a call that runs on one thread, and wall time on two.

    python -m bench.threads                            # at 192x320; prints; writes nothing
    python -m bench.threads --only "training step resnet50" --operators 20
    python -m bench.threads --only "360x640 bfloat16" --rounds 1

Three things for inference and the training step of the suite (`bench/suite/cases/`):

- the serial share: processor time of the calling thread outside of parallel regions, over that of
  the whole call on one thread. `bench/threads.c`, loaded before everything else, sees the regions.
- wall time on two threads over that on one, in turns, beside the same of a plain matrix product:
  two threads of one core give less than two cores.
- modelled, never measured: wall time on 2, 8 and 16 cores by Amdahl's law.

Of several rounds the shortest times count: a busy machine only adds. With `--operators`, the
operators that own the serial time; what is between them is Python.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.suite.interleaved import num_threads, timed
from bench.suite.memory import cases_of
from bench.suite.schema import Call, Case, Size
from seqformer.cli.threads import SPINS
from seqformer.devices import keep_freed_memory
from seqformer.trainer.trainer import KEPT_MIB

MODULES = ("bench.suite.cases.inference", "bench.suite.cases.training")
CORES = (2, 8, 16)
SIDE = 1536
"""Rows and columns of the plain product."""


class _Totals(ctypes.Structure):
    """`Totals` of threads.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ("regions", "caller")]


class _Watch:
    """threads.c, loaded before everything else into this process."""

    def __init__(self) -> None:
        self._code = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._code.serial_time.restype = ctypes.c_int64
        self.serial_time = self._code.serial_time

    def of(self, call: Call) -> dict[str, float]:
        """Seconds of one call, and the number of its regions."""
        self._code.watch_this_thread()
        start = self.serial_time()
        call()
        serial = self.serial_time() - start
        totals = _Totals()
        self._code.read_totals(ctypes.byref(totals))
        return {
            "serial": serial / 1e9,
            "regions": totals.regions,
        }


class _ByOperator(TorchDispatchMode):
    """Serial seconds and calls of every operator and its shapes; between them, of Python."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch
        self.spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
        self._last = watch.serial_time()

    def _add(self, name: str) -> None:
        now = self._watch.serial_time()
        entry = self.spent[name]
        entry[0] += (now - self._last) / 1e9
        entry[1] += 1
        self._last = self._watch.serial_time()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._add("between operators")
        result = func(*args, **(kwargs or {}))
        shapes = [
            f"{list(x.shape)}{'' if x.is_contiguous() else '*'}"
            for x in args
            if isinstance(x, torch.Tensor)
        ]
        self._add(f"{func} {' '.join(shapes)}")
        return result


def cases(size: Size) -> list[Case]:
    """Inference and training steps; small ones for smoke runs."""
    return cases_of(MODULES, size)


def _call(size: Size, name: str | None) -> Call:
    """Our side of a case, as the commands run it; without a name, a plain product."""
    if name is None:
        a, b = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
        return lambda: [torch.mm(a, b) for _ in range(8)]
    case = {case.name: case for case in cases(size)}[name]
    keep_freed_memory(*[KEPT_MIB] * case.op.startswith("training"))
    return case.sides[0].build(torch.device("cpu"))


def shares(size: Size, name: str, rounds: int, operators: int) -> dict[str, Any]:
    """In the watched process: seconds of one call, the least of `rounds`.

    Returns: "one": processor time on one thread; what `_Watch.of` gives, on two threads;
        "operators": rows of (name, serial seconds, calls).
    """
    watch, call = _Watch(), _call(size, name)
    found: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds + 1):
        with num_threads(1):
            one = timed(call, time.process_time)
        with num_threads(2):
            of_two = watch.of(call)
        for key, value in {"one": one, **of_two}.items():
            found[key] += [value] * (turn > 0)  # the first warms up
    result: dict[str, Any] = {key: min(values) for key, values in found.items()}
    if operators:
        for _ in range(2):  # the first warms up
            with num_threads(2), _ByOperator(watch) as by_operator:
                call()
        rows = sorted(by_operator.spent.items(), key=lambda row: -row[1][0])
        result["operators"] = [(name, *spent) for name, spent in rows[:operators]]
    return result


def walls(size: Size, name: str | None, rounds: int) -> dict[str, float]:
    """Wall seconds on one and on two threads, the least of `rounds` each, in turns.

    Args:
        name: of a case; None for the plain product.
    """
    call = _call(size, name)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(rounds + 1):
        for threads, spent in seconds.items():
            with num_threads(threads):
                spent += [timed(call, time.perf_counter)] * (turn > 0)
    return {"one": min(seconds[1]), "two": min(seconds[2])}


def modelled(serial: float, cores: int) -> float:
    """Amdahl's law: wall time on so many cores over that on one."""
    return serial + (1 - serial) / cores


def _library() -> str:
    """threads.c, compiled."""
    from kernels.c_library import FLAGS, compiled

    source = Path(__file__).with_suffix(".c")
    return compiled(source, [], "bench_threads", [*FLAGS, "-ldl"])._name


def _in_child(what: str, size: Size, name: str | None, *numbers: int) -> dict[str, Any]:
    """`shares` or `walls` in a process of its own, for what OpenMP reads as it is loaded."""
    environment = {"GOMP_SPINCOUNT": SPINS} | os.environ  # as the commands do
    if what == "shares":  # a thread that waits must not take time from the other
        environment |= {"LD_PRELOAD": _library(), "OMP_WAIT_POLICY": "passive"}
    words = ["--size", size, "--child", what, name or "", *map(str, numbers)]
    command = [sys.executable, "-m", "bench.threads", *words]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def report(size: Size, only: str, rounds: int, operators: int, with_walls: bool) -> None:
    """Print everything."""
    if with_walls:
        product = _in_child("walls", size, None, rounds)
        print(f"plain product, wall time on two threads over that on one: {_ratio(product)}")
    for case in cases(size):
        if only not in case.name:
            continue
        print(case.name)
        found = _in_child("shares", size, case.name, rounds, operators)
        if not found["regions"]:
            raise SystemExit("no parallel region was seen: OpenMP here is not GNU's")
        serial = found["serial"] / found["one"]
        print(
            f"    one thread {found['one']:.2f} s of processor time; serial {found['serial']:.3f} s"
            f" = {serial:.3f} of it; {found['regions']:.0f} regions"
        )
        ratios = ", ".join(f"{modelled(serial, n):.3f} on {n} cores" for n in CORES)
        print(f"    wall time over that on one thread, modelled: {ratios}")
        if with_walls:
            two = _in_child("walls", size, case.name, rounds)
            print(f"    the same on two threads: {_ratio(two)}")
        for name, seconds, count in found.get("operators", []):
            print(f"    {seconds * 1000:8.1f} ms {count:6d} times  {name[:140]}")
        sys.stdout.flush()


def _ratio(wall: dict[str, float]) -> str:
    return f"{wall['two'] / wall['one']:.2f} measured ({wall['one']:.3f} s on one)"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="192x320", help="cases whose name contains this")
    parser.add_argument("--size", choices=("cpu", "smoke"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="that count, after one more")
    parser.add_argument("--operators", type=int, default=0, help="rows of the table of operators")
    parser.add_argument("--no-walls", action="store_true", help="only serial shares")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        what, name, *numbers = options.child
        call = {"shares": shares, "walls": walls}[what]
        print(json.dumps(call(options.size, name or None, *map(int, numbers))))
        return 0
    report(options.size, options.only, options.rounds, options.operators, not options.no_walls)
    return 0


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.threads", main)
