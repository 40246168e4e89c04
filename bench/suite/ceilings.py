"""What a GPU gives to access patterns like ours: L1 gathers, L2 reads, float additions.

These measured ceilings replace assumed ones in the fractions that `bench.gpu` reports. Each kernel
is the bare access of the attention kernels: 16 neighbouring channels of a pseudo-random cell of a
small table, many times.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
import triton
import triton.language as tl

from bench.suite import timing
from kernels.launch import KernelVariant, pointer_type

ROWS, ROUNDS, CHANNELS = 64, 64, 32


@triton.jit
def _gather_kernel(table, output, cells, ROUNDS: tl.constexpr, ROWS: tl.constexpr, C: tl.constexpr):
    row = tl.arange(0, ROWS)[:, None] + tl.program_id(0) * ROWS
    channel = tl.arange(0, C)[None, :]
    total = tl.zeros([ROWS, C], tl.float32)
    cell = row
    for _ in range(ROUNDS):
        cell = (cell * 1103515245 + 12345) & 0x7FFFFFFF
        total += tl.load(table + (cell % cells) * C + channel)
    tl.store(output + row * C + channel, total)


@triton.jit
def _add_kernel(table, output, cells, ROUNDS: tl.constexpr, ROWS: tl.constexpr, C: tl.constexpr):
    row = tl.arange(0, ROWS)[:, None] + tl.program_id(0) * ROWS
    channel = tl.arange(0, C)[None, :]
    part = tl.load(output + row * C + channel)
    cell = row
    for _ in range(ROUNDS):
        cell = (cell * 1103515245 + 12345) & 0x7FFFFFFF
        tl.atomic_add(table + (cell % cells) * C + channel, part, sem="relaxed")


def measurements(device: torch.device, programs: int = 16_384) -> dict[str, Callable[[], float]]:
    """What measures each ceiling: gigabytes per second of gathers from a table that fits L1 (64
    KiB) and one that fits L2 (8 MiB), and 10^9 float additions per second spread over 8 MiB."""
    if device.type != "cuda":
        programs = 2
    return {
        name: partial(_measure, kernel, kib, device, programs)
        for name, kernel, kib in (
            ("l1_gather_gb_s", _gather_kernel, 64),
            ("l2_gather_gb_s", _gather_kernel, 8192),
            ("float_adds_g_s", _add_kernel, 8192),
        )
    }


def _measure(kernel: Any, kib: int, device: torch.device, programs: int) -> float:
    elements = programs * ROWS * ROUNDS * CHANNELS
    output = torch.zeros(programs * ROWS, CHANNELS, device=device)
    cells = kib * 1024 // (4 * CHANNELS)
    table = torch.zeros(cells, CHANNELS, device=device)
    arguments = {"table": table, "output": output, "cells": cells}
    variant = KernelVariant(
        kernel=kernel,
        types={n: "i32" if n == "cells" else pointer_type(t) for n, t in arguments.items()},
        constants={"ROUNDS": ROUNDS, "ROWS": ROWS, "C": CHANNELS},
        num_warps=4,
        rows=ROWS,
        trips=ROUNDS,
    )
    took = median(timing.steady([lambda: variant.run(programs, arguments)], device))
    per_element = 1 if kernel is _add_kernel else 4
    return elements * per_element / max(took, 1e-12) / 1e9
