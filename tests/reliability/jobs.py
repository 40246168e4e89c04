"""Commands on several processes, as torchrun starts them, to be disturbed and watched.

The processes are forked from one that has loaded torch, so that many of them take seconds. All of a
job are in one process group, decoding processes included.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import torch

from seqformer.cli.main import run_command
from seqformer.command import exit_with
from seqformer.distributed import presence

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["seqformer.trainer.trainer", "seqformer.inference.evaluate", "seqformer.inference.runner"]
)
Program = Literal["train.py", "eval.py"]
EARLY_SHARE, EARLY_SECONDS = 0.5, 3.0
"""Of the accidents that may happen before all have met, and how long after the start at most."""


@dataclass
class Job:
    """The processes of one command.

    Attributes:
        processes: by rank.
        log: what they print.
    """

    processes: list[BaseProcess]
    log: Path

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]

    def text(self) -> str:
        """What this job has printed so far."""
        return self.log.read_text(errors="replace")

    def is_running(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def begun(self) -> bool:
        """Whether all processes are in the job's group."""
        with suppress(ProcessLookupError):
            return {os.getpgid(pid) for pid in self.pids} == {self.pids[0]}
        return True

    def send(self, number: signal.Signals, rank: int | None = None) -> None:
        """To one process, or to the whole group; to none that has ended, as numbers are reused."""
        if not (self.is_running() if rank is None else self.processes[rank].is_alive()):
            return
        try:
            if rank is None:
                os.killpg(self.pids[0], number)
            else:
                os.kill(self.pids[rank], number)
        except ProcessLookupError:  # it has just ended
            assert rank is not None or not any(c is None for c in self.codes(1)), "no such group"

    def helpers(self, rank: int) -> list[int]:
        """Its decoding processes."""
        pid = self.pids[rank]
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        except OSError:
            return []
        return [int(word) for word in children.split()]

    def codes(self, seconds: float) -> list[int | None]:
        """Exit codes; None for a process that has not ended after so long."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def close(self) -> None:
        """Kill what is left, helpers included."""
        self.send(signal.SIGKILL)
        for process in self.processes:
            process.kill()
            process.join()


def start(
    program: Program,
    words: Sequence[str],
    log: Path,
    processes: int = 1,
    nan_flag: Path | None = None,
    world_size: int | None = None,
    never_came_seconds: float | None = None,
) -> Job:
    """Start a command.

    Args:
        processes: ranks that are started, from 0 on.
        world_size: ranks that should be; default all of these.
        never_came_seconds: how long they wait for one that is not; default as for users.
        nan_flag: where this file is, the last rank's next loss is NaN.
    """
    log.write_bytes(b"")
    port, started = free_port(), []
    for rank in range(processes):
        group = started[0].pid if started else 0
        ranks = (rank, world_size or processes)
        arguments = (program, list(words), log, *ranks, port, group, nan_flag, never_came_seconds)
        started.append(CONTEXT.Process(target=_become, args=arguments))
        started[-1].start()
    return Job(started, log)


@dataclass(frozen=True)
class Fault:
    """A kind of accident.

    Attributes:
        happen: does it to a job in its scene.
        goes_on: whether the job survives it.
        codes: exit codes that its processes may end with.
        said: one of these is printed.
        early_codes: those beside, where it happens before all have met; None where it does not.
    """

    happen: Callable[[Job, Any], None]
    goes_on: bool = False
    codes: tuple[int, ...] = ()
    said: tuple[str, ...] = ()
    early_codes: tuple[int, ...] | None = None


def check_end(
    job: Job, name: str, fault: Fault, seconds: float, is_over: str, is_early: bool = False
) -> float:
    """See that the processes of a job end as they should after an accident.

    Args:
        is_over: printed by a job that was done before the accident mattered.
        is_early: the processes had just been started.

    Returns: how long it took.
    """
    began = time.monotonic()
    codes = job.codes(seconds)
    took, text = time.monotonic() - began, job.text()
    told = f"{name}: exit codes {codes} after {took:.1f} s\n{text[-4000:]}"
    assert None not in codes, told
    assert "Traceback" not in text, told
    if is_over in text:
        return took
    early_codes = fault.early_codes or ()
    assert set(codes) <= {*fault.codes, *(early_codes if is_early else ())}, told
    is_silent = is_early and set(codes) <= {*early_codes}
    assert is_silent or not fault.said or any(words in text for words in fault.said), told
    return took


def in_turn(kinds: Iterable[str], count: int, rng: random.Random) -> list[str]:
    """So many kinds: all of them in some order, then all of them in another."""
    names: list[str] = []
    while len(names) < count:
        names += rng.sample([*kinds], len([*kinds]))
    return names[:count]


def table(title: str, seconds: dict[str, list[float]], repeated: dict[str, list[int]]) -> None:
    """Print one line per kind of accident."""
    print(f"\n| {title} | times | longest, s | steps done again |\n|---|---|---|---|")
    for name in sorted(seconds):
        again = f"{sum(repeated[name])}" if name in repeated else "-"
        print(f"| {name} | {len(seconds[name])} | {max(seconds[name]):.1f} | {again} |")


def fill_the_disk(job: Job) -> None:
    """No file of the first process grows any more, but for a last word: to a program, the same."""
    limit = job.log.stat().st_size + 4000
    with suppress(ProcessLookupError):
        resource.prlimit(job.pids[0], resource.RLIMIT_FSIZE, (limit, limit))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until(condition: Callable[[], Any], seconds: float) -> bool:
    """Returns: whether it came to hold in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _become(
    program: Program,
    words: list[str],
    log: Path,
    rank: int,
    world_size: int,
    port: int,
    group: int,
    nan_flag: Path | None,
    never_came_seconds: float | None,
) -> None:
    """One process of the command, from now to its end."""
    multiprocessing.set_start_method("fork", force=True)  # of its helpers, as without a server
    assert wait_until(lambda: _joined(group), 60)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
    sys.argv = [program, *words]
    torch.set_num_threads(1)
    if nan_flag is not None and rank == world_size - 1:
        _lose_a_number(nan_flag)
    if never_came_seconds is not None:
        presence.NEVER_CAME_SECONDS = never_came_seconds
    exit_with(program, lambda: _main(program, words))


def _joined(group: int) -> bool:
    try:
        os.setpgid(0, group)
    except (PermissionError, ProcessLookupError):
        return False  # the first process has not made the group yet
    return True


def _main(program: Program, words: list[str]) -> int:
    return run_command(program.removesuffix(".py"), words, program)


def _lose_a_number(flag: Path) -> None:
    from seqformer.trainer.step import TrainingStep

    sound = TrainingStep._losses

    def losses(self: TrainingStep, *arguments: Any) -> dict[str, torch.Tensor]:
        found = sound(self, *arguments)
        if flag.exists():
            flag.unlink()
            found["loss"] = found["loss"] * math.nan
        return found

    TrainingStep._losses = losses
