"""The device of a process, and traffic between host and device that does not wait.

A copy that waits stops the host from launching work, and soon the device from having any. So small
constants go to the device without waiting, and what the host must see is copied into pinned memory
behind the work that makes it; `HostCopy.wait` is where the host waits. In a training step that
happens once, for the matching costs; `tests/trainer/test_waits.py` holds everything else to that.

Pinned memory, events and streams belong to a GPU. All of them are taken on the tensor's own, which
need not be the current one.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's `mallopt`."""


def keep_freed_memory(mib: int = 256) -> None:
    """From now on this process keeps up to so much that it frees: every frame or step takes what
    the one before gave back, and the system need not clear thousands of pages anew. The peak is
    what it was. Without effect where the C library is not glibc."""
    _set_malloc_option(_M_MMAP_THRESHOLD, 32 << 20)
    _set_malloc_option(_M_TRIM_THRESHOLD, mib << 20)


def _set_malloc_option(option: int, value: int) -> None:
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            set_option(option, value)


def device_of(choice: str, local_rank: int = 0) -> torch.device:
    """The device that was chosen. A GPU becomes the current one.

    Args:
        choice: "cpu", "cuda", or "auto": a GPU where there is one.
        local_rank: of the process on this machine; the number of its GPU.

    Raises: ValueError: a GPU is asked for and there is none, or none with this number.
    """
    if choose_device(choice).type == "cpu":
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {local_rank} has no GPU: this machine has {torch.cuda.device_count()}; "
            "start as many processes as there are GPUs (torchrun --nproc-per-node)"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def choose_device(name: str | torch.device) -> torch.device:
    """The device; auto takes the GPU where there is one; "cuda:1" need not be the current one.

    Raises: ValueError when there is no GPU, or none of this number.
    """
    has_gpu = torch.cuda.is_available()
    device = torch.device(("cuda" if has_gpu else "cpu") if name == "auto" else name)
    if device.type == "cuda" and not has_gpu:
        raise ValueError("device cuda was asked for but PyTorch finds no usable GPU; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device} was asked for but this machine has {torch.cuda.device_count()} "
            "GPU(s); the first is cuda:0"
        )
    return device


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Inside, `device` is the current one if it is a GPU: allocations, events, streams and launches
    that name no device are on it."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class HostCopy:
    """Tensors of one device on their way to the host; launch other work before `wait`."""

    def __init__(self, *tensors: Tensor) -> None:
        device = tensors[0].device
        self._event: torch.cuda.Event | None = None
        if device.type != "cuda":
            self._host = [tensor.cpu() for tensor in tensors]
            return
        with on_device(device):
            self._host = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
            for host, tensor in zip(self._host, tensors, strict=True):
                host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> list[np.ndarray]:
        """The numbers, once they have arrived; of CPU tensors, views."""
        if self._event is not None:
            self._event.synchronize()
        return [host.contiguous().numpy() for host in self._host]


def to_device(numbers: Sequence | np.ndarray, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Host numbers on the device of `like`, without waiting for it."""
    return sent(torch.as_tensor(numbers, dtype=dtype), like.device)


def sent(host: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device, without waiting for it."""
    if device.type != "cuda":
        return host.to(device)
    with on_device(device):
        return host.pin_memory().to(device, non_blocking=True)
