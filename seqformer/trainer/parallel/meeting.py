"""Where the processes of a run meet.

Under torchrun that is the agent's store. It survives a restart of the processes, and with it what
the former ones wrote: a process could read the address of a peer that is gone, and wait for it
until the timeout. So every session first agrees on a name space of its own.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.02
LATE_SECONDS = 45
"""After so long a process says that it still waits for others."""


@dataclass(frozen=True)
class Rendezvous:
    """A port of this machine, served by whoever made it.

    A shared file would do as well, but for its end: processes that close such a store race for
    removing the file, and the loser can wait for it until the store's timeout.
    """

    port: int
    store: dist.TCPStore | None = field(default=None, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"port": self.port, "store": None}  # the server stays with its maker

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


def local_rendezvous() -> Rendezvous:
    """A meeting point on a free port, for one session; keep it until every process has left."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return Rendezvous(store.port, store)


def meet(where: Rendezvous | None, rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """A store that only the processes of this session use.

    Args:
        where: on this machine; None for torchrun's address.
        rank: of this process.
        world_size: number of processes.
        timeout: how long to wait for the others.

    Raises: dist.DistError when not all of them come in time.
    """
    if where is not None:
        if Path("/sys/class/net/lo").exists():  # let gloo stay on this machine
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        return where.store or dist.TCPStore(
            "127.0.0.1", where.port, is_master=False, timeout=timeout
        )
    late = threading.Timer(LATE_SECONDS, _say_late, [world_size, timeout])
    late.daemon = True
    late.start()
    try:
        store, _, _ = next(rendezvous("env://", rank, world_size, timeout=timeout))
        return dist.PrefixStore(agree_on_name(store, rank, world_size, timeout), store)
    finally:
        late.cancel()


def _say_late(world_size: int, timeout: timedelta) -> None:
    logger.warning(
        "not all %d processes of this run are there after %d s; one that has ended before they met "
        "must be seen by what started them (torchrun, srun --kill-on-bad-exit); waiting for up to "
        "%d minutes",
        world_size,
        LATE_SECONDS,
        timeout.total_seconds() / 60,
    )


def agree_on_name(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """A name that all processes that are here now know, whatever earlier ones left in the store.

    Everyone says hello with a token of its own. Rank 0 answers with a name and the tokens it read,
    again and again until all have accepted; who finds its own token in the answer knows that it is
    meant.

    Raises: dist.DistStoreError when not all agree in time.
    """
    end = time.monotonic() + timeout.total_seconds()
    token = name = uuid.uuid4().hex
    others = range(1, world_size)
    if rank == 0:
        while not all(store.check([f"accepted/{name}/{other}"]) for other in others):
            _check_time(end, timeout)
            greeted = {o: store.get(f"hello/{o}").decode() for o in others if _has(store, o)}
            store.set("answer", json.dumps({"name": name, "tokens": list(greeted.values())}))
            time.sleep(POLL_SECONDS)
        return name
    store.set(f"hello/{rank}", token)
    while True:
        _check_time(end, timeout)
        if store.check(["answer"]):
            answer = json.loads(store.get("answer"))
            if token in answer["tokens"]:
                store.set(f"accepted/{answer['name']}/{rank}", "")
                return answer["name"]
        time.sleep(POLL_SECONDS)


def _has(store: dist.Store, other: int) -> bool:
    return store.check([f"hello/{other}"])


def _check_time(end: float, timeout: timedelta) -> None:
    if time.monotonic() > end:
        raise dist.DistStoreError(f"Timed out waiting {timeout} for all processes to meet")
