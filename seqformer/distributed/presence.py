"""Which processes of a run are there, on this machine, before they have met.

Until the process groups stand nobody but the launcher could miss a process that was killed: the
others would wait for it. So every process first opens a socket with a name that follows from the
run's address and its rank, and twice a second looks for those of the others. A connection to one
ends when its process does, however that happens. The names are of Linux's abstract kind: they are
no files, nothing of them outlives its process, and a process of another user does not count.
Elsewhere nobody is seen and nobody is missed.

Imports no torch: the first thing of a command, long before torch is loaded.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import select
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from seqformer.distributed.environment import Launch

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
NEVER_CAME_SECONDS = 45.0
"""A process of this machine that has not come so long after this one is given up."""
_LOOKS_TO_BE_SURE = 2
"""Whoever ended may just have been started again; so many looks later nobody has."""
_BUSY_SECONDS = 3.0
"""How long to wait for a process of an earlier try to give its name back."""

current: Presence | None = None
"""That of this process, once it is announced."""


class Presence:
    """This process is there; the others are looked for, in a thread, until they have met."""

    def __init__(self, launch: Launch) -> None:
        self._rank = launch.rank
        self._names = {rank: _name(launch, rank) for rank in range(launch.world_size)}
        self._expected = set(launch.local_ranks or ()) - {launch.rank}
        self._known = frozenset(self._expected)
        self._connections: dict[int, socket.socket] = {}
        self._missed: dict[int, int] = {}  # rank -> looks without it, after it was there
        self._lost: str | None = None
        self._began, self._looks = time.monotonic(), 0
        self._is_over = threading.Event()
        self._listener = _listen(self._names.pop(launch.rank))
        if self._listener is None:  # others may not be seen for the same reason
            self._expected.clear()
        _open.add(self)
        self._thread = threading.Thread(target=self._look_around, name="presence", daemon=True)
        self._thread.start()

    def lost(self) -> str | None:
        """What happened to another process, in words; None while nobody is missed."""
        return self._lost

    def have_met(self) -> None:
        """From now on losing a process is seen by what connects them; this one stays visible."""
        self._is_over.set()
        self._thread.join()
        while self._connections:
            self._connections.popitem()[1].close()

    def close(self) -> None:
        """This process leaves."""
        self.have_met()
        self._shut()

    def _shut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _look_around(self) -> None:
        while self._lost is None and not self._is_over.is_set():
            self._look()
            self._is_over.wait(LOOK_SECONDS)

    def _look(self) -> None:
        self._looks += 1
        for rank, name in self._names.items():
            connection = self._connections.get(rank)
            if connection is not None and _is_alive(connection):
                continue
            if connection is not None:
                self._connections.pop(rank).close()
                self._missed[rank] = 0
            try:
                connection = _connect(name)
            except PermissionError:  # somebody else has the name, so nothing is known
                self._expected.discard(rank)
                continue
            if connection is not None:
                self._connections[rank] = connection
                self._missed.pop(rank, None)
                self._expected.discard(rank)
                if self._known and rank not in self._known:
                    self._expected.clear()  # the ranks of this machine do not follow one another
            elif rank in self._missed:
                self._missed[rank] += 1
        self._judge()

    def _judge(self) -> None:
        gone = [rank for rank, looks in self._missed.items() if looks > _LOOKS_TO_BE_SURE]
        if gone:
            self._lost = f"rank {min(gone)} ended before all had met"
        # Looks are counted, too: this process may have been stopped meanwhile.
        elif (
            self._expected
            and time.monotonic() - self._began > NEVER_CAME_SECONDS
            and self._looks * LOOK_SECONDS > NEVER_CAME_SECONDS / 2
        ):
            self._lost = (
                f"rank {min(self._expected)} of this machine has not begun "
                f"{NEVER_CAME_SECONDS:.0f} s after rank {self._rank}"
            )


@contextmanager
def announced(launch: Launch) -> Iterator[None]:
    """Inside, the other processes of the run can see that this one is there, and it sees them."""
    global current
    if launch.world_size == 1 or sys.platform != "linux":
        yield
        return
    before, current = current, Presence(launch)
    try:
        yield
    finally:
        current.close()
        current = before


_open: weakref.WeakSet[Presence] = weakref.WeakSet()


def _shut_in_child() -> None:
    """A forked helper must not be taken for its parent."""
    for presence in _open:
        presence._shut()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shut_in_child)


def _name(launch: Launch, rank: int) -> bytes:
    address = "localhost" if launch.is_loopback else launch.address
    run = (os.getuid(), address, launch.port, launch.world_size, launch.attempt)
    return f"\0seqformer-{hashlib.sha256(repr(run).encode()).hexdigest()[:32]}-{rank}".encode()


def _listen(name: bytes) -> socket.socket | None:
    """None where the system has no such names, or this one stays taken."""
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(name)
            listener.listen(socket.SOMAXCONN)
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                logger.warning(
                    "the other processes of this machine cannot see whether this one is there "
                    "(%s); one that ends before all have met is missed by its launcher only",
                    error.strerror,
                )
                return None
            time.sleep(LOOK_SECONDS / 5)


def _connect(name: bytes) -> socket.socket | None:
    """A connection to the process that has the name; None if nobody has it.

    Raises: PermissionError when that is a process of another user.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(name)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    except OSError:
        connection.close()
        return None
    if struct.unpack("3i", credentials)[1] != os.getuid():
        connection.close()
        raise PermissionError(f"another user's process has the name {name!r}")
    return connection


def _is_alive(connection: socket.socket) -> bool:
    events = select.poll()
    with suppress(OSError, ValueError):
        events.register(connection, 0)  # its end is told unasked
        return not events.poll(0)
    return False
