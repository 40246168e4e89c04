"""This process among those of its run: meeting them, agreeing with them, leaving them.

One process is the ordinary case and uses no process group. Several meet as `rendezvous.py` says.
Training has two groups of gloo beside the one that carries gradients: on `control` the hosts agree
once per step without waiting for their GPUs, on `storage` a background thread writes checkpoints.
Evaluation has one group of gloo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from seqformer.devices import device_of
from seqformer.distributed import presence
from seqformer.distributed.environment import launch
from seqformer.distributed.errors import communication_errors
from seqformer.distributed.rendezvous import Rendezvous, Waiting, Watch, meet

T = TypeVar("T")
MEETING_MINUTES = 30.0


@dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """This process among its peers.

    Attributes:
        rank: 0 .. world_size - 1; rank 0 logs and writes.
        world_size: number of processes.
        device: where this process computes.
        nodes: machines; their processes have consecutive ranks.
        control: gloo group for the hosts' agreements; None for the group of all, or one process.
        storage: gloo group of the thread that writes checkpoints; None where nothing trains.
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

    def gather(self, value: T) -> list[T]:
        """The (picklable) values of all processes by rank, on every process; waits for all."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with communication_errors():
            dist.all_gather_object(values, value, group=self.control)
        return values

    def from_main(self, value: T) -> T:
        """What rank 0 passed (picklable); the others' values are ignored."""
        if self.world_size == 1:
            return value
        values = [value]
        with communication_errors():
            dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def barrier(self) -> None:
        """Wait for every process."""
        if self.world_size > 1:
            dist.barrier(group=self.control)


@contextmanager
def distributed_context(
    device: Literal["auto", "cpu", "cuda"] = "auto",
    *,
    rank: int | None = None,
    world_size: int | None = None,
    rendezvous: Rendezvous | None = None,
    watch: Watch | None = None,
    timeout_minutes: float = 30.0,
    is_training: bool = True,
) -> Iterator[DistributedContext]:
    """Join the other processes for the length of the block.

    Args:
        device: auto takes the GPU where there is one.
        rank: default the launcher's.
        world_size: default the launcher's.
        rendezvous: where the processes of one machine meet; default the launcher's address.
        watch: says whether one of the others is lost while they meet; default: those of this
            machine, where the command has announced this process.
        timeout_minutes: a collective that takes longer ends the run.
        is_training: gradients go between the processes: nccl on GPUs, gloo on the CPU, and groups
            for control and storage; otherwise gloo alone.

    After an exception the process group is left as it is.

    Raises: ValueError when the device is absent, there are more processes than GPUs, or the
        launcher's variables make no sense; LostProcessError when not all of them meet.
    """
    started = launch()
    rank = started.rank if rank is None else rank
    world_size = started.world_size if world_size is None else world_size
    local_rank = started.local_rank if "LOCAL_RANK" in os.environ else rank
    chosen = device_of(device, local_rank)
    if world_size == 1:
        yield DistributedContext(device=chosen)
        return
    where = rendezvous or started
    timeout = timedelta(minutes=timeout_minutes)
    watch = watch or (presence.current.lost if presence.current else lambda: None)
    waiting = Waiting(watch)
    on_gpu = is_training and chosen.type == "cuda"
    groups: dict[str, Any] = {}
    with communication_errors(), waiting.attentive():
        patience = min(timeout, timedelta(minutes=MEETING_MINUTES))
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=meet(where, rank, world_size, patience, waiting),
            rank=rank,
            world_size=world_size,
            timeout=timeout,
            device_id=chosen if on_gpu else None,
        )
        if is_training:
            groups = {
                name: dist.new_group(backend="gloo", timeout=timeout)
                for name in ("control", "storage")
            }
    if presence.current:
        presence.current.have_met()
    per_node = started.local_world_size or world_size
    yield DistributedContext(
        rank=rank,
        world_size=world_size,
        device=chosen,
        nodes=max(1, world_size // per_node),
        **groups,
    )
    # Not after an exception: NCCL's end waits for everyone, who may wait for this process until the
    # time limit, and the error would not be heard of before. The command ends the process.
    dist.destroy_process_group()
