"""How many things one call sets in motion: operators dispatched, and kernels launched on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from bench.case import Call

_LAUNCHES = frozenset(
    {"cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx"}
)


class _Counter(TorchDispatchMode):
    """Counts what reaches the dispatcher below autograd, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        self.count += 1
        return operator(*arguments, **(named or {}))


def counts(call: Call, device: torch.device) -> dict[str, int]:
    """`operators` of one call, and on a GPU `launches`; the call must be warm."""
    with _Counter() as counter:
        call()
    found = {"operators": counter.count}
    if device.type == "cuda":
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            call()
            torch.cuda.synchronize(device)
        found["launches"] = sum(
            event.count for event in profiler.key_averages() if event.key in _LAUNCHES
        )
    return found
