"""The processes of one evaluation (torchrun): which this is, what the others say, who does what."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist

from seqformer.devices import device_of
from seqformer.distributed import communication_errors

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among its peers; one process is the ordinary case.

    Attributes:
        rank: 0 .. world_size - 1; rank 0 logs and merges.
        device: where this process computes.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process merges results and talks to the user."""
        return self.rank == 0

    def from_main(self, value: T) -> T:
        """What rank 0 passed; the others' values are ignored."""
        if self.world_size == 1:
            return value
        values = [value]
        with communication_errors():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes by rank, on every process; also waits for all."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with communication_errors():
            dist.all_gather_object(values, value)
        return values


@contextmanager
def join_ranks(device: Literal["auto", "cpu", "cuda"]) -> Iterator[Ranks]:
    """Meet the other processes that torchrun started, for the length of the block.

    Raises: ValueError when the device is absent or there are more processes than GPUs.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local_rank = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    chosen = device_of(device, local_rank)
    threads = torch.get_num_threads()
    if world_size > 1:
        # Nothing but small messages goes between the processes, and a rank may wait for the others
        # for as long as their longest videos take.
        with communication_errors():
            dist.init_process_group("gloo", timeout=timedelta(days=7))
    try:
        yield Ranks(rank=rank, world_size=world_size, device=chosen)
    finally:
        torch.set_num_threads(threads)  # a run may have set its own number
    if world_size > 1:  # after an error nothing waits for the others; the process ends
        dist.destroy_process_group()


def balanced_shares(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Distribute videos so that all ranks get about as many frames.

    The longest first, each to the rank with the least so far: at most a third above the best
    distribution (Graham 1969).

    Returns: for every rank the positions of its videos, ascending.
    """
    shares: list[list[int]] = [[] for _ in range(world_size)]
    loads = [(0, rank) for rank in range(world_size)]
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        load, rank = heapq.heappop(loads)
        shares[rank].append(index)
        heapq.heappush(loads, (load + lengths[index], rank))
    return [sorted(share) for share in shares]
