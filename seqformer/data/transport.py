"""Batches from decoding processes to the training process, in anonymous memory.

All tensors of a batch lie one after another in a file that exists in memory alone (memfd), so no
mount limits it: /dev/shm, which holds 64 MB in a container by default, is not used. The open file
goes through a socket of the decoding process and is mapped here; nothing is copied, one handle is
open per batch, and nothing is left when a process is killed.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import replace
from multiprocessing.reduction import DupFd
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from seqformer.structures import ClipBatch, ClipTargets

_ALIGNMENT = 64
CAN_PACK = hasattr(os, "memfd_create")
"""Whether this system has such files; elsewhere torch's own way is taken."""


class PackedBatch:
    """A batch on its way; `unpack` it once, in the process that receives it.

    Raises: OSError when memory runs out.
    """

    def __init__(self, batch: ClipBatch) -> None:
        tensors = _tensors(batch)
        self._layout, size = [], 0
        for tensor in tensors:
            self._layout.append((tensor.dtype, tuple(tensor.shape), size))
            size += -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT
        self._size = max(size, 1)
        self._batch = _with_tensors(batch, [None] * len(tensors))
        try:
            self._file = self._filled(tensors)
        except OSError as error:
            raise OSError(
                f"a decoded batch of {self._size} bytes cannot be handed over ({error.strerror}); "
                "memory, open files (ulimit -n) or the size of files (ulimit -f) are too limited"
            ) from error

    def _filled(self, tensors: list[Tensor]) -> Any:
        handle = os.memfd_create("seqformer-batch", os.MFD_CLOEXEC)
        try:
            os.truncate(handle, self._size)
            memory = mmap.mmap(handle, self._size)
            for tensor, place in zip(tensors, self._views(memory), strict=True):
                place.copy_(tensor)
            return DupFd(handle)
        finally:
            os.close(handle)

    def unpack(self) -> ClipBatch:
        """The batch; its tensors share the memory, which is freed with the last of them.

        Raises: OSError or EOFError when the process that packed it has died.
        """
        handle = self._file.detach()
        try:
            memory = mmap.mmap(handle, self._size)
        finally:
            os.close(handle)
        return _with_tensors(self._batch, self._views(memory))

    def pin_memory(self) -> ClipBatch:
        """Called by DataLoader(pin_memory=True)."""
        return self.unpack().pin_memory()

    def _views(self, memory: mmap.mmap) -> list[Tensor]:
        whole = torch.from_numpy(np.frombuffer(memory, np.uint8))
        views = []
        for dtype, shape, start in self._layout:
            count = int(np.prod(shape)) * dtype.itemsize
            views.append(whole[start : start + count].view(dtype).view(shape))
        return views


def _tensors(batch: ClipBatch) -> list[Tensor]:
    """In the order in which `_with_tensors` takes them."""
    targets = [v for target in batch.targets for v in target.values() if isinstance(v, Tensor)]
    return [batch.images, batch.padding_mask, *targets]


def _with_tensors(batch: ClipBatch, tensors: list[Any]) -> ClipBatch:
    """The same batch with other tensors, or with None for each."""
    images, padding_mask, *rest = tensors
    following = iter(rest)
    targets = [
        cast(
            ClipTargets,
            {
                k: next(following) if v is None or isinstance(v, Tensor) else v
                for k, v in target.items()
            },
        )
        for target in batch.targets
    ]
    return replace(batch, images=images, padding_mask=padding_mask, targets=targets)
