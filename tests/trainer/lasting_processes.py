"""Processes that stay for the whole test session, so that torch is imported once by each."""

from __future__ import annotations

import io
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from seqformer.distributed.context import distributed_context
from seqformer.distributed.rendezvous import Rendezvous, local_rendezvous

SECONDS = 500
"""Longest wait for an answer: on a busy machine three processes take minutes to load torch."""
TIMEOUT_MINUTES = 8
"""Of a collective, for the same reason; a process that ends is noticed at once."""


class LastingProcesses:
    """Runs a function on several gloo processes at once; see `run` and `run_alone`."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._workers = []
        for _ in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there,), daemon=True)
            process.start()
            there.close()  # so that its end is seen
            self._workers.append((process, here))

    def run(self, processes: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """`function(parallel, *arguments)` in a session of its own; the results by rank."""
        meeting = local_rendezvous()
        for rank, (_, pipe) in enumerate(self._workers[:processes]):
            pipe.send((_in_session, (function, rank, processes, meeting, arguments)))
        return self._results(processes)

    def run_alone(self, processes: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """`function(session, *arguments)`, where session holds what `train` needs to meet peers."""
        meeting = local_rendezvous()
        for rank, (_, pipe) in enumerate(self._workers[:processes]):
            session = {"rank": rank, "world_size": processes, "rendezvous": meeting}
            pipe.send((function, (session, *arguments)))
        return self._results(processes)

    def _results(self, processes: int) -> list[Any]:
        results = []
        for rank, (_, pipe) in enumerate(self._workers[:processes]):
            assert pipe.poll(SECONDS), f"rank {rank} did not answer in {SECONDS} s"
            try:
                is_error, content = pipe.recv()
            except EOFError:
                raise AssertionError(f"rank {rank} ended") from None
            assert not is_error, f"rank {rank}:\n{content}"
            results.append(torch.load(io.BytesIO(content), weights_only=False))
        return results

    def close(self) -> None:
        for process, pipe in self._workers:
            pipe.close()
            process.kill()
            process.join()


def _in_session(
    function: Callable[..., Any], rank: int, size: int, meeting: Rendezvous, arguments: tuple
) -> Any:
    with distributed_context(
        "cpu", rank=rank, world_size=size, rendezvous=meeting, timeout_minutes=TIMEOUT_MINUTES
    ) as parallel:
        return function(parallel, *arguments)


def _serve(pipe: Connection) -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            content = io.BytesIO()
            torch.save(function(*arguments), content)
            pipe.send((False, content.getvalue()))
        except BaseException:
            pipe.send((True, traceback.format_exc()))
        if dist.is_initialized():  # a session that failed leaves its process group as it is
            dist.destroy_process_group()
