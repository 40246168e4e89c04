"""How the processes of a run meet.

Under torchrun they do at the agent's store. It survives a restart of the processes, and with it
what the former ones wrote: a process could read the address of a peer that is gone, and wait for it
until the timeout. So every run of processes first agrees on a name space of its own.

While a process waits it looks whether the others are still there, and hears requests to end, inside
torch's own waits, too.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from seqformer.command import ENDING_SIGNALS, end_as_asked, end_at_once
from seqformer.distributed.environment import Launch
from seqformer.distributed.errors import LostProcessError

logger = logging.getLogger(__name__)

Watch = Callable[[], str | None]
"""Says what happened to another process; None while nobody is missed."""

POLL_SECONDS = 0.02
LATE_SECONDS = 45
"""After so long a process says that it still waits for others."""
PATIENCE_SECONDS = 1.0
"""After so long a wait inside torch is ended, where an exception would have ended ours."""


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
    """A meeting point on a free port, for one run; keep it until every process has left."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return Rendezvous(store.port, store)


class Waiting:
    """A wait for other processes: it ends when one of them is lost or this one is asked to end.

    Ours look with `check`. Those inside torch hear no exception: where one lasts on, the running
    command ends this process at once, with the same sentence and exit code.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._asked: signal.Signals | None = None
        self._is_over = threading.Event()
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises: LostProcessError; Terminated when this process was asked to end."""
        if self._asked is not None:
            end_as_asked(self._asked)
        reason = self._watch()
        if reason is not None:
            raise _lost(reason)

    @contextmanager
    def attentive(self) -> Iterator[None]:
        """Inside, a thread sees to it that no wait inside torch lasts on."""
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.set_wakeup_fd(writer.fileno()) if is_main else -1
        thread = threading.Thread(target=self._attend, args=(reader,), name="waiting", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._is_over.set()
            thread.join()
            if is_main:
                signal.set_wakeup_fd(before)
            reader.close()
            writer.close()

    def _attend(self, signals: socket.socket) -> None:
        since: float | None = None
        while not self._is_over.wait(PATIENCE_SECONDS / 4):
            self._asked = self._asked or _request(signals)
            reason = self._watch()
            if self._asked is None and reason is None:
                continue
            since = since or time.monotonic()
            if time.monotonic() - since < PATIENCE_SECONDS:
                continue
            with self._lock:
                if self._is_over.is_set():
                    return
                end_at_once(self._asked or _lost(reason or ""))


def _lost(reason: str) -> LostProcessError:
    return LostProcessError(
        f"another process of this run ended or is missing ({reason}); its own message says why"
    )


def _request(signals: socket.socket) -> signal.Signals | None:
    """The first signal so far that asks this process to end."""
    try:
        numbers = signals.recv(1024)
    except BlockingIOError:
        return None
    asking = [number for number in numbers if number in ENDING_SIGNALS]
    return signal.Signals(asking[0]) if asking else None


def meet(
    where: Rendezvous | Launch, rank: int, world_size: int, timeout: timedelta, waiting: Waiting
) -> dist.Store:
    """A store that only the processes of this run use.

    Args:
        where: on this machine, or at the launcher's address.
        rank: of this process.
        world_size: number of processes.
        timeout: how long to wait for the others.
        waiting: ends the wait before.

    Raises: ValueError when the launcher gave no address; LostProcessError; dist.DistError when not
        all of them come in time.
    """
    if isinstance(where, Rendezvous):
        if Path("/sys/class/net/lo").exists():  # let gloo stay on this machine
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        return where.store or dist.TCPStore(
            "127.0.0.1", where.port, is_master=False, timeout=timeout
        )
    late = threading.Timer(LATE_SECONDS, _say_late, [world_size, timeout])
    late.daemon = True
    late.start()
    try:
        store = _launchers_store(where, timeout, waiting)
        name = agree_on_name(store, rank, world_size, timeout, waiting.check)
        return dist.PrefixStore(name, store)
    finally:
        late.cancel()


def _launchers_store(launch: Launch, timeout: timedelta, waiting: Waiting) -> dist.TCPStore:
    """At the launcher's address: torchrun serves it, else rank 0 does."""
    if launch.address is None or launch.port is None:
        raise ValueError(
            f"WORLD_SIZE is {launch.world_size}, but MASTER_ADDR or MASTER_PORT is not set; start "
            "all processes with torchrun, or set both to where rank 0 is"
        )
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_server = launch.rank == 0 and not is_served
    if not is_server:
        _wait_for_server(launch.address, launch.port, timeout, waiting)
    try:
        return dist.TCPStore(
            launch.address,
            launch.port,
            launch.world_size,
            is_master=is_server,
            timeout=timeout,
            wait_for_workers=False,
            multi_tenant=True,
        )
    except dist.DistNetworkError as error:
        if not is_server:
            raise
        raise ValueError(
            f"rank 0 cannot serve the others at MASTER_ADDR {launch.address}, MASTER_PORT "
            f"{launch.port} ({str(error).splitlines()[0][:160]}); is another run using the port?"
        ) from error


def _wait_for_server(address: str, port: int, timeout: timedelta, waiting: Waiting) -> None:
    end = time.monotonic() + timeout.total_seconds()
    while True:
        waiting.check()
        try:
            socket.create_connection((address.strip("[]"), port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise dist.DistNetworkError(
                    f"Timed out waiting {timeout} for {address}:{port} ({error})"
                ) from error
        time.sleep(5 * POLL_SECONDS)


def _say_late(world_size: int, timeout: timedelta) -> None:
    logger.warning(
        "not all %d processes of this run are there after %d s; one on another machine that ended "
        "before they met must be seen by what started them (torchrun, srun --kill-on-bad-exit); "
        "waiting for up to %d minutes",
        world_size,
        LATE_SECONDS,
        timeout.total_seconds() / 60,
    )


def agree_on_name(
    store: dist.Store,
    rank: int,
    world_size: int,
    timeout: timedelta,
    check: Callable[[], None] = lambda: None,
) -> str:
    """A name that all processes that are here now know, whatever earlier ones left in the store.

    Everyone says hello with a token of its own. Rank 0 answers with a name and the tokens it read,
    again and again until all have accepted; who finds its own token in the answer knows that it is
    meant.

    Args:
        check: ends the wait by an exception.

    Raises: dist.DistStoreError when not all agree in time.
    """
    end = time.monotonic() + timeout.total_seconds()
    token = name = uuid.uuid4().hex
    others = range(1, world_size)
    if rank == 0:
        while not all(store.check([f"accepted/{name}/{other}"]) for other in others):
            check()
            _check_time(end, timeout)
            greeted = {o: store.get(f"hello/{o}").decode() for o in others if _has(store, o)}
            store.set("answer", json.dumps({"name": name, "tokens": list(greeted.values())}))
            time.sleep(POLL_SECONDS)
        return name
    store.set(f"hello/{rank}", token)
    while True:
        check()
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
