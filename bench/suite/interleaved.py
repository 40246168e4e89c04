"""A measurement on a CPU: the sides of a case in turns, pytest-benchmark holding the clock of ours.

`benchmark.pedantic` calls a `setup` before every round of the side it times; here that setup runs
and times all other sides. So every round holds every side once, in one process, and a machine that
is busy for a while disturbs all of them alike. One more round before the others warms up.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from bench.suite import launches
from bench.suite.memory import METHOD, peak_growth_in_fresh_process
from bench.suite.record import case_row, side_row, summary
from bench.suite.schema import Call, Case, check_agreement

WALL_ROUNDS = 3
Clock = Callable[[], float]


class Benchmark(Protocol):
    """What is used of pytest-benchmark's fixture."""

    stats: Any

    def pedantic(self, target: Call, **options: Any) -> Any: ...


def measure(
    benchmark: Benchmark, module: str, case: Case, clock: Clock, with_wall: bool = False
) -> dict[str, Any]:
    """A case's row of the record: agreement, then time, then memory.

    Args:
        benchmark: an unused fixture whose own timer is `clock`.
        module: full name of the module that declares the case, at the size "cpu".
        clock: seconds of processor time.
        with_wall: also wall time on two threads.

    Raises: AssertionError: sides do not do the same work; nothing is timed then.
    """
    cpu = torch.device("cpu")
    calls = {side.name: side.build(cpu) for side in case.sides_on(cpu)}
    check_agreement(case, {name: call() for name, call in calls.items()})
    seconds = seconds_in_turns(benchmark, calls, case.rounds, clock)
    wall = wall_seconds_in_turns(calls, WALL_ROUNDS) if with_wall else {}
    sides = {}
    for name in calls:
        more = {"wall on two threads": summary(wall[name])} if with_wall else {}
        if case.group in ("blocks", "model"):
            more |= launches.counts(calls[name], cpu)
        peak = None
        if case.memory:
            peak = peak_growth_in_fresh_process([module], "cpu", case.name, name)
        method = None if peak is None else METHOD
        sides[name] = side_row(seconds[name], "process", peak, method, **more)
    return case_row(case, sides)


def seconds_in_turns(
    benchmark: Benchmark, calls: Mapping[str, Call], rounds: int, clock: Clock
) -> dict[str, list[float]]:
    """Seconds of each side's calls, `rounds` each.

    Args:
        benchmark: an unused fixture whose own timer is `clock`.
        calls: by side; the fixture times "ours", last in each round.
        rounds: that count, after one warm-up.
        clock: for the other sides.
    """
    others = {name: call for name, call in calls.items() if name != "ours"}
    seconds: dict[str, list[float]] = {name: [] for name in others}

    def run_others() -> None:
        for name, call in others.items():
            seconds[name].append(timed(call, clock))
        gc.collect()

    benchmark.pedantic(calls["ours"], setup=run_others, rounds=rounds, warmup_rounds=1)
    ours = list(benchmark.stats.stats.data)
    return {"ours": ours} | {name: values[1 : rounds + 1] for name, values in seconds.items()}


def wall_seconds_in_turns(
    calls: Mapping[str, Call], rounds: int, threads: int = 2, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Wall seconds on several threads, in turns, after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with num_threads(threads):
        for _ in range(rounds + 1):
            for name, call in calls.items():
                seconds[name].append(timed(call, clock))
    return {name: values[1:] for name, values in seconds.items()}


def timed(call: Call, clock: Clock) -> float:
    """Seconds of one call; garbage of earlier ones is collected before."""
    gc.collect()
    start = clock()
    call()
    return clock() - start


@contextmanager
def num_threads(number: int) -> Iterator[None]:
    """PyTorch's threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
