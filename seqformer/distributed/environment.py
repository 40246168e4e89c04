"""What the launcher says of this process: torchrun's variables, which `srun` and others can set.

Imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

_LOOPBACK = ("localhost", "::1", "[::1]")


@dataclass(frozen=True)
class Launch:
    """This process among those that were started with it.

    Attributes:
        rank: 0 .. world_size - 1.
        world_size: number of processes.
        local_rank: among those of this machine.
        local_world_size: processes of this machine; None where it is not said.
        address: of the machine with rank 0; None where it is not said.
        port: there.
        in_pod: whether Kubernetes started it: its operators give the pod of rank 0 a loopback
            address, though the others have pods of their own.
        attempt: tells this start from others that had the same address: run, restart and job.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int | None = None
    address: str | None = None
    port: int | None = None
    in_pod: bool = False
    attempt: tuple[str, ...] = ()

    @property
    def local_ranks(self) -> range | None:
        """The ranks of this machine, this one included; None where they are not known.

        Those of a machine follow one another, as torchrun and, by default, srun number them.
        """
        if self.local_world_size is not None:
            first = self.rank - self.local_rank
            known = range(max(0, first), min(first + self.local_world_size, self.world_size))
            return known if self.rank in known else None
        return range(self.world_size) if self.is_loopback and not self.in_pod else None

    @property
    def is_loopback(self) -> bool:
        """Whether the address is one that only processes of this machine can use."""
        address = self.address or ""
        return address in _LOOPBACK or address.startswith("127.")


_ATTEMPT = (
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "GROUP_WORLD_SIZE",
    "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_STEP_ID",
)


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """What the environment says of this process; a process alone where it says nothing.

    Raises: ValueError naming a variable whose value makes no sense.
    """
    world_size = _number(environment, "WORLD_SIZE", 1, at_least=1)
    rank = _number(environment, "RANK", 0)
    assert world_size is not None and rank is not None
    if rank >= world_size:
        raise ValueError(f"RANK is {rank} but WORLD_SIZE is {world_size}; ranks begin at 0")
    local_rank = _number(environment, "LOCAL_RANK", rank)
    local = _number(environment, "LOCAL_WORLD_SIZE", None, at_least=1)
    assert local_rank is not None
    return Launch(
        rank,
        world_size,
        local_rank,
        local,
        environment.get("MASTER_ADDR", "").strip() or None,
        _number(environment, "MASTER_PORT", None, at_most=65535),
        "KUBERNETES_SERVICE_HOST" in environment,
        tuple(environment.get(name, "") for name in _ATTEMPT),
    )


def _number(
    environment: Mapping[str, str],
    name: str,
    default: int | None,
    at_least: int = 0,
    at_most: int = 2**31 - 1,
) -> int | None:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", text) or not at_least <= int(text) <= at_most:
        raise ValueError(
            f"the environment variable {name} is {text!r}; needed is a whole number from "
            f"{at_least} to {at_most}"
        )
    return int(text)
