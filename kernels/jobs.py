"""Jobs of C code on the threads that torch has already.

torch, MKL and oneDNN share the threads of one OpenMP library. Between two operators these wait on
their cores for more work, so threads of our own would have to share the cores with them; and to
hand a job to a thread of Python takes a hundred times as long as to hand it to one of theirs.
Where there is no such library (macOS), it is another than torch's, or its threads are gone (a
forked child), Python's threads do the jobs (`c_library.run_jobs`).
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from typing import Any

import torch

from .c_library import run_jobs


class _Queue(ctypes.Structure):
    """`Queue` of jobs.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("call", "arguments", "jobs")),
        *((name, ctypes.c_int64) for name in ("size", "count", "next")),
    )


def run(
    compiled: ctypes.CDLL,
    name: str,
    arguments: ctypes.Structure,
    jobs: ctypes.Array[Any],
) -> None:
    """Call a C function with the same arguments and every job, on as many threads as torch uses.

    Args:
        compiled: a library whose source includes jobs.h.
        name: of its function `void name(const Arguments *, Job *)`. It may write into its job.
        arguments, jobs: as it takes them.
    """
    function = getattr(compiled, name)
    function.restype = None
    if len(jobs) <= 1 or torch.get_num_threads() == 1:
        for job in jobs:
            function(ctypes.byref(arguments), ctypes.byref(job))
        return
    team = _team()
    if team is None:
        run_jobs(function, [(ctypes.byref(arguments), ctypes.byref(job)) for job in jobs])
        return
    places = (ctypes.addressof(arguments), ctypes.addressof(jobs))
    size = ctypes.sizeof(jobs._type_)
    queue = _Queue(ctypes.cast(function, ctypes.c_void_p), *places, size, len(jobs), 0)
    # No number of threads: where it changes from call to call, the library ends threads and starts
    # others. The default is torch's number, in this thread.
    team(compiled.take_jobs, ctypes.byref(queue), 0, 0)


_is_forked = False


def _note_fork() -> None:
    global _is_forked
    _is_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def _team() -> Any:
    """`GOMP_parallel` of the library that torch uses; None where there is none, or no threads."""
    found = None if _is_forked else _find_team()
    if found is None:
        return None
    team, number_of_threads = found
    return team if number_of_threads() == torch.get_num_threads() else None


@lru_cache(maxsize=1)
def _find_team() -> tuple[Any, Any] | None:
    """`GOMP_parallel` and `omp_get_max_threads` as a library finds them that is loaded now."""
    try:
        library = ctypes.CDLL(None)
        team, number_of_threads = library.GOMP_parallel, library.omp_get_max_threads
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return None
    team.restype = None
    team.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    return team, number_of_threads
