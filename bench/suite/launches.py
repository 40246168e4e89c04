"""How many things one call sets in motion: operators dispatched, and kernels launched on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from bench.suite.schema import Call

_LAUNCHES = frozenset(
    {"cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx"}
)


class _Counter(TorchDispatchMode):
    """Counts what reaches the dispatcher below autograd.

    Composite operators count as their parts with and without gradients; of itself,
    `torch.inference_mode` would let them through in one piece.

    Attributes:
        operators: all.
        views: of these, those that compute nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.views = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        named = named or {}
        if operator is not torch.ops.prim.device.default:
            with self:
                result = operator.decompose(*arguments, **named)
            if result is not NotImplemented:
                return result
        self.operators += 1
        self.views += operator.is_view
        return operator(*arguments, **named)


def counts(call: Call, device: torch.device) -> dict[str, int]:
    """`operators` of one warm call, `views` among them, and on a GPU `launches`."""
    with _Counter() as counter:
        call()
    found = {"operators": counter.operators, "views": counter.views}
    if device.type == "cuda":
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            call()
            torch.cuda.synchronize(device)
        found["launches"] = sum(
            event.count for event in profiler.key_averages() if event.key in _LAUNCHES
        )
    return found
