"""Losses of dynamic masks for CPUs in C, where there is a compiler: `cpu.c`.

The masks of a part are drawn, summed (or replaced by their gradient) and forgotten while they are
in cache. Letters and parts as in `mask_head/cpu.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from ..c_library import library, run_jobs
from ..mask_head.cpu import Network, Part, sum_in_order


class PixelLosses:
    """Targets and settings of a call beside its networks."""

    def __init__(
        self,
        compiled: ctypes.CDLL,
        net: Network,
        targets: Tensor,
        target_index: Tensor,
        target_stride: int,
        alpha: float,
        gamma: float,
    ) -> None:
        self._compiled, self._net = compiled, net
        self._targets = targets.contiguous()
        self._index = net.sort(target_index.long()).contiguous()
        self._arguments = _Arguments(
            self._targets.data_ptr(), self._index.data_ptr(), None, None,
            net.shape[1], net.N, *targets.shape[2:], target_stride, *net.size, alpha, gamma,
        )  # fmt: skip

    def forward(self) -> Tensor:
        """Sums [N, 4] as `op.forward`."""
        net = self._net
        sums = torch.zeros(net.shape[1], net.N, 4, dtype=torch.float64)
        self._arguments.sums = sums.data_ptr()

        def add(part: Part) -> None:
            masks = net.new_masks(part)
            net.draw(part, masks)
            self._run(self._compiled.sums, part, masks)

        run_jobs(add, [(part,) for parts in net.frames() for part in parts])
        return net.unsort(sum_in_order(sums).to(net.dtype))

    def backward(
        self, grad_sums: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Gradients of features (if asked for), parameters and references."""
        net = self._net
        grad_sums = net.sort(grad_sums).to(net.dtype).contiguous()
        self._arguments.grad_sums = grad_sums.data_ptr()

        def read_frame(parts: list[Part]) -> None:
            for part in parts:
                masks = net.new_masks(part)
                net.draw(part, masks)
                self._run(self._compiled.gradient, part, masks)
                net.read(part, masks)

        net.start_backward(needs[0])
        run_jobs(read_frame, [(parts,) for parts in net.frames()])
        return net.gradients()

    def _run(self, function: ctypes._CFuncPtr, part: Part, masks: Tensor) -> None:
        job = _Job(part.frame, part.first, part.first + part.count, masks.data_ptr())
        function(ctypes.byref(self._arguments), ctypes.byref(job))


def pixel_losses(
    net: Network | None,
    targets: Tensor,
    target_index: Tensor,
    target_stride: int,
    alpha: float,
    gamma: float,
) -> PixelLosses | None:
    """None where the C code cannot be compiled."""
    compiled = None if net is None else library("mask_loss", net.dtype)
    if compiled is None:
        return None
    compiled.sums.restype = compiled.gradient.restype = None
    return PixelLosses(compiled, net, targets, target_index, target_stride, alpha, gamma)


class _Arguments(ctypes.Structure):
    """`Arguments` of cpu.c; absent pointers are null."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("targets", "target_index", "sums", "grad_sums")),
        *((name, ctypes.c_int64) for name in ("T", "N", "H", "W", "stride", "height", "width")),
        *((name, ctypes.c_double) for name in ("alpha", "gamma")),
    )


class _Job(ctypes.Structure):
    """`Job` of cpu.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("frame", "first", "last")),
        ("pixels", ctypes.c_void_p),
    )
