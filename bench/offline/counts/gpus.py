"""Assumed rates of GPUs, and what all that count share: machine code, errors, places in memory.

A bound is the largest of what each resource needs at least, by the rates of `GPU`:

- issue: 4 warp instructions a clock and multiprocessor.
- l1: one pass a clock and multiprocessor. Loads pass by the rule of four 32-byte banks, each of
  which delivers from one line a pass. Stores and atomics pass line by line; a shuffle is a pass.
- l2 reads and l2 atomics: sectors a clock. dram: bytes a second.

None of the rates is measured here, and the rule of L1 decides what binds: docs/kernels.md.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from bench.offline.disassembly import Listing, tool
from bench.offline.emulator import A100, H100, V100, CacheGeometry

_ALIGNMENT = 512
_KINKED = 1e-4
"""Share of the gradients of offsets that are left out of the comparison: float32 may lie on the
other side of a grid line, where they jump."""


@dataclass(frozen=True, kw_only=True)
class GPU:
    """Rates that bounds are made with, all assumed.

    Attributes:
        clock: cycles a second.
        l2_reads, l2_atomics: sectors a clock.
        dram: bytes a second.
    """

    caches: CacheGeometry
    clock: float
    l2_reads: int
    l2_atomics: int
    dram: float


GPUS = {
    70: GPU(caches=V100, clock=1.53e9, l2_reads=64, l2_atomics=64, dram=0.9e12),
    80: GPU(caches=A100, clock=1.41e9, l2_reads=160, l2_atomics=80, dram=1.555e12),
    90: GPU(caches=H100, clock=1.755e9, l2_reads=160, l2_atomics=96, dram=3.35e12),
}


def read_binary(binary: bytes, capability: int) -> tuple[int, Listing | None]:
    """Registers of a thread, and the disassembly of a binary with one kernel, or None where it
    cannot be read."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage = tool("cuobjdump", "-res-usage", file.name)
        # Triton's disassembler no longer reads sm_70.
        text = "" if capability == 70 else tool("nvdisasm", "-c", file.name)
    registers = int(re.search(r"REG:(\d+)", usage).group(1))
    return registers, Listing.parse(text) if text else None


def relative_error(actual: Tensor, exact: Tensor, is_kinked: bool) -> float:
    """Of the norm; the worst few of a gradient that jumps are left out."""
    difference = (actual.double() - exact).abs().flatten()
    if is_kinked:
        difference = difference.sort().values[: int((1 - _KINKED) * len(difference))]
    return float(difference.norm() / exact.norm())


def aligned(tensor: Tensor) -> Tensor:
    """A copy that begins where CUDA's allocator would let it."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)
    return copy.copy_(tensor)


@contextmanager
def gpu_alignment() -> Iterator[None]:
    """Inside, new tensors begin on a multiple of 512 bytes, as CUDA's allocator lets them."""
    empty = torch.empty

    def shifted(like: Tensor) -> Tensor:
        room = empty(like.numel() * like.element_size() + _ALIGNMENT, dtype=torch.uint8)
        start = -room.data_ptr() % _ALIGNMENT
        inner = room[start : start + like.numel() * like.element_size()]
        return inner.view(like.dtype).view(like.shape)

    def make(allocate: Any, is_zero: bool) -> Any:
        def fresh(*arguments: Any, **named: Any) -> Tensor:
            tensor = shifted(allocate(*arguments, **named))
            return tensor.zero_() if is_zero else tensor

        return fresh

    with (
        mock.patch.object(torch, "empty", make(empty, False)),
        mock.patch.object(torch, "zeros", make(torch.zeros, True)),
        mock.patch.object(Tensor, "new_empty", make(Tensor.new_empty, False)),
        mock.patch.object(Tensor, "new_zeros", make(Tensor.new_zeros, True)),
    ):
        yield
