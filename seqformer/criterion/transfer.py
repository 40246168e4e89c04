"""Traffic between host and device within a step: all that does not wait, and the one wait there is.

A copy that waits stops the host from launching work, and soon the device from having any. So small
constants go to the device without waiting, and what the host must see (the matching costs, nothing
else) is copied into pinned memory behind the work that makes it; `HostCopy.wait` is where a step
waits. `tests/trainer/test_waits.py` holds everything else to that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class HostCopy:
    """A tensor on its way to the host; launch other work before `wait`."""

    def __init__(self, tensor: Tensor) -> None:
        self._event = None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))
        else:
            self._host = tensor.cpu()

    def wait(self) -> np.ndarray:
        """The numbers, once they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()


def to_device(numbers: Sequence | np.ndarray, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Host numbers on the device of `like`, without waiting for it."""
    host = torch.as_tensor(numbers, dtype=dtype)
    if like.device.type == "cuda":
        host = host.pin_memory()
    return host.to(like.device, non_blocking=True)
