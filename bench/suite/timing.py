"""Timers for kernels: CUDA events on a GPU, process CPU seconds elsewhere (for smoke runs only).

*cold*: the L2 cache is overwritten before every call, so inputs come from memory. *steady*: calls
rotate over copies of the inputs that together exceed twice the L2 cache, so that a call finds
neither its own inputs nor an empty machine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import torch

from bench.suite.schema import Call

FLUSH_BYTES = 256 * 2**20
"""More than any L2 cache; zeroed between calls."""
FEWEST = 5
"""Timed calls, however long they take."""


def cold(call: Call, device: torch.device, budget: float = 0.3) -> list[float]:
    """Seconds of calls whose inputs have left the cache; about `budget` of them in all."""
    flush = None
    if device.type == "cuda":
        flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
    return _repeat([call], device, budget, flush)


def steady(calls: Sequence[Call], device: torch.device, budget: float = 0.3) -> list[float]:
    """Seconds of calls in a rotation over `calls`; about `budget` of them in all."""
    return _repeat(calls, device, budget, None)


def copies_for_steady(num_bytes: int, device: torch.device) -> int:
    """Input sets to rotate over, so that they exceed twice the L2 cache."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(2, min(16, -(-2 * cache // max(num_bytes, 1)) + 1))


def peak_bytes(call: Call, device: torch.device) -> int | None:
    """Growth of allocated GPU memory during one call; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    grown = torch.cuda.max_memory_allocated(device) - before
    del result
    return grown


def _repeat(
    calls: Sequence[Call], device: torch.device, budget: float, flush: torch.Tensor | None
) -> list[float]:
    if device.type != "cuda":
        start = time.process_time()
        calls[0]()
        return [time.process_time() - start]
    for call in calls:  # compile, and settle the allocator
        call()
    first = _events([calls[i % len(calls)] for i in range(FEWEST)], device, flush)
    if sum(first) >= budget:
        return first
    repeat = int(min(budget / max(median(first), 1e-6), 1000))
    return _events([calls[i % len(calls)] for i in range(max(repeat, FEWEST))], device, flush)


def _events(calls: Sequence[Call], device: torch.device, flush: torch.Tensor | None) -> list[float]:
    pairs = []
    for call in calls:
        if flush is not None:
            flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) / 1e3 for start, end in pairs]
