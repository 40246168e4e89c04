"""Mask losses for CPUs: in C where there is a compiler (`cpu.c`), or by `cpu_torch.py`.

The masks of a tile are drawn, summed (or replaced by their gradient) and forgotten while they are
in cache. Letters and tiles as in `mask_head/cpu.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..c_library import library, run_jobs, why_not
from ..mask_head.cpu import Network, Tile, network, sum_in_order
from ..mask_head.cpu import why_not_compiled as of_head
from ..mask_head.inputs import MaskHeadConfig, MaskHeadInputs, compute_dtype, in_dtypes
from . import cpu_torch
from .inputs import LossTargets


class PixelLosses:
    """Targets and settings of a call beside its networks."""

    def __init__(self, compiled: ctypes.CDLL, net: Network, given: LossTargets) -> None:
        self._compiled, self._net = compiled, net
        self._targets = given.masks.contiguous()
        self._index = net.sort(given.index.long()).contiguous()
        self._arguments = _Arguments(
            self._targets.data_ptr(), self._index.data_ptr(), None, None,
            net.shape[1], net.N, *self._targets.shape[2:], given.stride, *net.size,
            given.alpha, given.gamma,
        )  # fmt: skip

    def forward(self) -> Tensor:
        """Sums [N, 4] as `op.forward`."""
        net = self._net
        sums = torch.zeros(net.shape[1], net.N, 4, dtype=torch.float64)
        self._arguments.sums = sums.data_ptr()

        def add(tile: Tile) -> None:
            masks = net.new_masks(tile)
            net.draw(tile, masks)
            self._run(self._compiled.sums, tile, masks)

        run_jobs(add, [(tile,) for tiles in net.frames() for tile in tiles])
        return net.unsort(sum_in_order(sums).to(net.dtype))

    def backward(
        self, grad_sums: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Gradients of features (if asked for), parameters and references."""
        net = self._net
        grad_sums = net.sort(grad_sums).to(net.dtype).contiguous()
        self._arguments.grad_sums = grad_sums.data_ptr()

        def read_frame(tiles: list[Tile]) -> None:
            for tile in tiles:
                masks = net.new_masks(tile)
                net.draw(tile, masks)
                self._run(self._compiled.gradient, tile, masks)
                net.read(tile, masks)

        net.start_backward(needs[0])
        run_jobs(read_frame, [(tiles,) for tiles in net.frames()])
        return net.gradients()

    def _run(self, function: Any, tile: Tile, masks: Tensor) -> None:
        job = _Job(tile.frame, tile.first, tile.first + tile.count, masks.data_ptr())
        function(ctypes.byref(self._arguments), ctypes.byref(job))


def forward(inputs: MaskHeadInputs, head: MaskHeadConfig, given: LossTargets) -> Tensor:
    """Result as `op.forward`."""
    losses = _pixel_losses(inputs, head, given)
    return cpu_torch.forward(inputs, head, given) if losses is None else losses.forward()


def backward(
    grad_sums: Tensor,
    inputs: MaskHeadInputs,
    head: MaskHeadConfig,
    given: LossTargets,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Results as `op.backward`; None where not asked for."""
    losses = _pixel_losses(inputs, head, given)
    if losses is None:
        return cpu_torch.backward(grad_sums, inputs, head, given, needs)
    return in_dtypes(losses.backward(grad_sums, needs), inputs, needs)


def compiled_for(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The C code, unless it cannot be compiled."""
    return library("mask_loss", dtype)


def why_not_compiled(features: Tensor, params: Tensor, *references: Tensor) -> str | None:
    """Why the C code of the head or `compiled_for` gives none; None where both do."""
    reason = of_head(features, params, *references)
    dtype = compute_dtype(features, params, *references)
    if reason is None and compiled_for(dtype) is None:
        reason = why_not("mask_loss", dtype)
    return reason


def _pixel_losses(
    inputs: MaskHeadInputs, head: MaskHeadConfig, given: LossTargets
) -> PixelLosses | None:
    """None where the C code cannot be compiled."""
    net = network(inputs, head)
    compiled = None if net is None else compiled_for(net.dtype)
    if net is None or compiled is None:
        return None
    compiled.sums.restype = compiled.gradient.restype = None
    return PixelLosses(compiled, net, given)


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
