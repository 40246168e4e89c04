"""This process among its peers: meeting them, agreeing with them, and losing them.

One process is the ordinary case and uses no process group. Several meet as `meeting.py` says.
Beside the group that carries gradients there are two of gloo: on `control` the hosts agree once per
step without waiting for their GPUs, on `storage` a background thread writes checkpoints.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from seqformer.devices import device_of
from seqformer.distributed import communication_errors
from seqformer.trainer.parallel.meeting import Rendezvous, meet

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """This process among its peers.

    Attributes:
        rank: 0 .. world_size - 1; rank 0 logs and writes.
        world_size: number of processes.
        device: where this process computes.
        nodes: machines; their processes have consecutive ranks.
        control: gloo group for the hosts' agreements; None for one process.
        storage: gloo group of the thread that writes checkpoints; None for one process.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    nodes: int = 1
    control: dist.ProcessGroup | None = None
    storage: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process logs and writes files."""
        return self.rank == 0

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over the processes, in place and on the device."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
            tensor /= self.world_size
        return tensor

    def maximum(self, tensor: Tensor) -> Tensor:
        """Largest over the processes, in place and on the device."""
        if self.world_size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def host_sum(self, *numbers: float) -> list[float]:
        """Sums over the processes of numbers that the hosts know; no device waits."""
        if self.world_size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The (picklable) values of all processes by rank, on every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def barrier(self) -> None:
        """Wait for every process."""
        if self.world_size > 1:
            dist.barrier(group=self.control)


def rank_from_environment() -> int:
    """This process's rank as torchrun says it; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def parallel_session(
    device: Literal["auto", "cpu", "cuda"] = "auto",
    *,
    rank: int | None = None,
    world_size: int | None = None,
    rendezvous: Rendezvous | None = None,
    timeout_minutes: float = 30.0,
) -> Iterator[Parallel]:
    """Join the other processes for the length of the block: nccl on GPUs, gloo on the CPU.

    Args:
        device: auto takes the GPU where there is one.
        rank: default torchrun's.
        world_size: default torchrun's.
        rendezvous: where the processes of one machine meet; default torchrun's address.
        timeout_minutes: a collective that takes longer ends the run.

    After an exception the process group is left as it is.

    Raises: ValueError when the device is absent or there are more processes than GPUs.
    """
    rank = rank_from_environment() if rank is None else rank
    world_size = int(os.environ.get("WORLD_SIZE", "1")) if world_size is None else world_size
    chosen = device_of(device, int(os.environ.get("LOCAL_RANK", rank)))
    if world_size == 1:
        yield Parallel(device=chosen)
        return
    timeout = timedelta(minutes=timeout_minutes)
    with communication_errors():
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            store=meet(rendezvous, rank, world_size, timeout),
            rank=rank,
            world_size=world_size,
            timeout=timeout,
            device_id=chosen if chosen.type == "cuda" else None,
        )
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    yield Parallel(
        rank=rank,
        world_size=world_size,
        device=chosen,
        nodes=max(1, world_size // per_node),
        control=dist.new_group(backend="gloo", timeout=timeout),
        storage=dist.new_group(backend="gloo", timeout=timeout),
    )
    # Not after an exception: NCCL's end waits for everyone, who may wait for this process until the
    # time limit, and the error would not be heard of before. The command ends the process.
    dist.destroy_process_group()
