"""Fresh memory that says so: what `torch.empty` gives holds a pattern until someone writes it.

Every four bytes read 0x7FB57FB5: NaN in float32, bfloat16 and float16. Four bytes of a buffer that
still hold the pattern at a launch count as never written. A result has them by chance once in four
billion.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

PATTERN = 0x7FB5_7FB5
LARGEST = 2**28
"""Bytes beyond which memory is left alone: it may be larger than what the machine has, and is meant
to be touched here and there only."""


def poison(tensor: Tensor, pattern: int = PATTERN) -> Tensor:
    """Fill a dense tensor with the pattern; returns it."""
    storage = tensor.untyped_storage()
    if tensor.device.type != "cpu" or not 0 < storage.nbytes() <= LARGEST:
        return tensor
    data = _bytes_at(storage.data_ptr(), storage.nbytes())
    whole = len(data) // 4 * 4
    data[:whole].view(np.uint32)[:] = pattern
    data[whole:] = np.frombuffer(pattern.to_bytes(4, "little"), np.uint8)[: len(data) - whole]
    return tensor


def written(address: int, num_bytes: int) -> np.ndarray | None:
    """Which bytes someone wrote, bool [num_bytes]; None if all."""
    if not 8 <= num_bytes <= LARGEST:
        return None
    data = _bytes_at(address, num_bytes)
    # The pattern lies on multiples of four bytes, as every storage begins on one.
    start = -address % 4
    whole = (num_bytes - start) // 4 * 4
    is_fresh = data[start : start + whole].view(np.uint32) == PATTERN
    if not is_fresh.any():
        return None
    known = np.ones(num_bytes, bool)
    known[start : start + whole] = ~np.repeat(is_fresh, 4)
    return known


@contextmanager
def filled_memory(pattern: int = PATTERN) -> Iterator[None]:
    """Inside, `torch.empty`, `torch.empty_like` and `Tensor.new_empty` give memory that holds the
    pattern."""
    # The first block of this kind remembers which functions make tensors: they must be torch's own.
    with torch.device("meta"):
        torch.empty(0)
    with ExitStack() as stack:
        for owner, name in (
            (torch, "empty"),
            (torch, "empty_like"),
            (torch, "empty_strided"),
            (torch.Tensor, "new_empty"),
        ):
            original = getattr(owner, name)
            stack.enter_context(mock.patch.object(owner, name, _filling(original, pattern)))
        yield


def _filling(allocate: Any, pattern: int) -> Any:
    def fresh(*arguments: Any, **named: Any) -> Tensor:
        return poison(allocate(*arguments, **named), pattern)

    return fresh


def _bytes_at(address: int, num_bytes: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint8 * num_bytes).from_address(address), np.uint8)
