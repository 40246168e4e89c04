"""Peak memory of one call on a CPU: how far it raises the resident peak of a fresh process.

A process that has run before keeps freed memory and libraries, so every side gets its own, spawned,
and one call at the smoke size first, which loads libraries and compiles what is compiled. What is
freed goes back to the system at once there (`METHOD`): left to itself, the C library keeps holes
between tensors, more or fewer by chance, and ten processes of one commit found 78 to 95 MiB for the
same inference; now they find the same to half a MiB, which is what is in use.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from bench.suite.schema import Case, Size, unique

METHOD = "freed memory returned at once"
"""How the peak is found, for records: peaks of one method only can be compared."""
M_MMAP_THRESHOLD, SMALLEST_RETURNED = -3, 2**17
"""Parameter of `mallopt`, and the C library's own first value of it, which it raises as it goes."""


def cases_of(modules: Sequence[str], size: Size) -> list[Case]:
    """Cases of modules named in full; a fresh process finds its case by (modules, size, name)."""
    from importlib import import_module

    return unique(case for name in modules for case in import_module(name).cases(size))


def peak_growth_in_fresh_process(
    modules: Sequence[str], size: Size, case_name: str, side_name: str
) -> int | None:
    """Bytes by which one call of a side raises the peak; None where the system does not tell.

    Args:
        modules: full names of the modules that declare the case.
        size, case_name, side_name: which side of which case.

    Raises: KeyError: there is no such case or side.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        arguments = tuple(modules), size, case_name, side_name
        return pool.submit(_peak_growth, *arguments).result()


def _peak_growth(modules: Sequence[str], size: Size, case_name: str, side_name: str) -> int | None:
    torch.set_num_threads(1)
    return_freed_memory()
    case = {c.name: c for c in cases_of(modules, size)}[case_name]
    for small in cases_of(modules, "smoke"):
        if (small.op, small.direction, small.dtype) == (case.op, case.direction, case.dtype):
            for side in small.sides:
                if side.name == side_name:
                    side.build(torch.device("cpu"))()
            break
    side = {s.name: s for s in case.sides}[side_name]
    return peak_growth_of(side.build(torch.device("cpu")))


def return_freed_memory() -> None:
    """From now on, blocks of 128 KiB and more are mapped by themselves and unmapped when freed;
    without effect where the C library is not glibc."""
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            set_option(M_MMAP_THRESHOLD, SMALLEST_RETURNED)


def peak_growth_of(call: Callable[[], Any]) -> int | None:
    """Bytes by which one call raises this process's peak; None where the system does not tell."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    before, peak_before = process_status_bytes("VmRSS:"), _peak_bytes()
    reset = _reset_peak()
    call()
    peak = _peak_bytes()
    if before is None or peak is None:
        return None
    if not reset and (peak_before is None or peak <= peak_before):
        return None  # the call stayed below an earlier peak, which cannot be told apart
    return max(peak - before, 0)


def _peak_bytes() -> int | None:
    peak = process_status_bytes("VmHWM:")
    if peak is not None or sys.platform == "win32":
        return peak
    import resource

    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def process_status_bytes(key: str) -> int | None:
    """A line of this process's status in bytes; None where the system has no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
