"""Processes of one machine compile a kernel once: the first compiles, others wait for its result.

Triton keeps what it compiled in a folder that all processes of a machine share, but does not keep
them from compiling the same at the same time, as all ranks of a job do in their first step. Here
each form of a kernel has a file in that folder. Who locks it compiles, and leaves a mark in it when
done. The system releases the lock of a process that dies, and nobody waits longer than
`LONGEST_WAIT`: then everyone compiles on their own, as without this file. Nothing is sent between
processes, so an operator may compile whenever it is reached.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

LONGEST_WAIT = 300.0
"""Seconds; ten times what the slowest kernel takes on a busy machine."""
_BETWEEN_LOOKS = 0.05


def is_shared() -> bool:
    """Whether this process is one of several of a job on this machine, as torchrun says."""
    return fcntl is not None and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1


@contextmanager
def turn(form: str) -> Iterator[None]:
    """Inside, no other process of the machine compiles this form, or one has done so already.

    Args:
        form: all that the compiled code depends on.
    """
    path = _file_of(form)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:  # a folder that cannot be written to: Triton says so if it minds
        yield
        return
    try:
        is_mine = _wait(descriptor)
        yield
        if is_mine:
            os.pwrite(descriptor, b"compiled", 0)
    finally:
        os.close(descriptor)


def _wait(descriptor: int) -> bool:
    """Until the form is compiled (False), or this process has the lock (True), or it gets late."""
    end = time.monotonic() + LONGEST_WAIT
    while not os.fstat(descriptor).st_size:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return not os.fstat(descriptor).st_size
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(_BETWEEN_LOOKS)
        except OSError:  # a file system without locks
            return False
    return False


def _file_of(form: str) -> Path:
    from triton import knobs

    name = hashlib.sha256(form.encode()).hexdigest()[:32]
    return Path(knobs.cache.dir) / "seqformer-turns" / name
