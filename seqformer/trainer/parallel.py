"""Several processes as one trainer: the only file that knows torch.distributed.

One process is the ordinary case and uses no process group. Under torchrun, or as one of the demo's
processes, every process holds the whole model and a share of the clips, and DistributedDataParallel
averages the gradients.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """This process among its peers.

    Attributes:
        rank: 0 .. world_size - 1; rank 0 logs and writes.
        world_size: number of processes.
        device: where this process computes.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process logs and writes files."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradient averaging; the model itself where there is one process.

        Parameters outside the graph have requires_grad False, so no search for unused ones is
        needed.
        """
        if self.world_size == 1:
            return model
        return DistributedDataParallel(
            model,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over the processes, in place and on the device."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
            tensor /= self.world_size
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """The (picklable) values of all processes by rank, on every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for every process."""
        if self.world_size > 1:
            dist.barrier()


def rank_from_environment() -> int:
    """This process's rank as torchrun says it; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def parallel_session(
    device: Literal["auto", "cpu", "cuda"] = "auto",
    *,
    rank: int | None = None,
    world_size: int | None = None,
    rendezvous: str | None = None,
) -> Iterator[Parallel]:
    """Join the other processes for the length of the block: nccl on GPUs, gloo on the CPU.

    Args:
        device: auto takes the GPU where there is one.
        rank: default torchrun's.
        world_size: default torchrun's.
        rendezvous: URL where the processes meet ("file:///..."); default torchrun's.

    Raises: ValueError when the device is absent or there are more processes than GPUs.
    """
    rank = rank_from_environment() if rank is None else rank
    world_size = int(os.environ.get("WORLD_SIZE", "1")) if world_size is None else world_size
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", rank)))
    if world_size == 1:
        yield Parallel(device=chosen)
        return
    dist.init_process_group(
        "nccl" if chosen.type == "cuda" else "gloo",
        init_method=rendezvous or "env://",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(minutes=60),  # rank 0 may validate while the others wait
    )
    try:
        yield Parallel(rank=rank, world_size=world_size, device=chosen)
    finally:
        dist.destroy_process_group()


def _device(choice: str, local_rank: int) -> torch.device:
    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch finds no CUDA device; use --device cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {local_rank} has no GPU: this machine has {torch.cuda.device_count()}; "
            "start as many processes as there are GPUs (torchrun --nproc-per-node)"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
