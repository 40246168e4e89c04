"""Dynamic mask head for CPUs: in C where there is a compiler (`cpu.c`), or by `cpu_torch.py`.

A tile is a frame of a clip with some of the clip's instances. In the backward the tiles of a frame
are visited in order, since all add to the gradient of its features, and each frame leaves its own
share of the parameters' gradient; shares are added in order. So results do not depend on the number
of threads. Letters as in `__init__.py`; n instances of a tile.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..c_library import library, run_jobs, why_not
from . import cpu_torch
from .inputs import MaskHeadConfig, MaskHeadInputs, compute_dtype, in_dtypes

_PIXELS = 1 << 18
"""Pixels of a tile: of one frame's masks that are drawn or read together, a megabyte in float32."""


class Tile(NamedTuple):
    """Some instances of a clip in a frame.

    Attributes:
        rows: where the instances are among the N: a slice, or indices.
        first: place of the first when the instances are sorted by clip.
    """

    clip: int
    frame: int
    rows: slice | Tensor
    first: int
    count: int  # type: ignore[assignment] # in the place of tuple.count


class Network:
    """The networks of a call, in one dtype and sorted by clip.

    Attributes:
        shape: B, T, C, h, w.
        size: (F*h, F*w).
    """

    def __init__(self, compiled: ctypes.CDLL, inputs: MaskHeadInputs, head: MaskHeadConfig) -> None:
        features, params, references, clip_index = inputs
        self.dtype = inputs.compute_dtype
        self.shape, self.N, self._compiled = features.shape, len(params), compiled
        B, T, C, h, w = self.shape
        self.size = (head.upsample * h, head.upsample * w)
        self._counts = torch.bincount(clip_index, minlength=B).tolist()
        self._order = None
        known = clip_index.numpy()
        if not (known[1:] >= known[:-1]).all():
            self._order = torch.argsort(clip_index, stable=True)
        self._features = features.to(self.dtype).contiguous()
        self._params, self._references = (
            self.sort(x).to(self.dtype).contiguous() for x in (params, references)
        )
        self._arguments = _Arguments(
            *(x.data_ptr() for x in (self._features, self._params, self._references)),
            None, None, None,
            T, self.N, C, h, w,
            head.hidden_width, head.num_layers, head.upsample,
            int(head.relative_coordinates), head.stride,
        )  # fmt: skip
        self._space = compiled.space_of(ctypes.byref(self._arguments))

    def sort(self, rows: Tensor) -> Tensor:
        """A row per instance, in the order of the clips."""
        return rows if self._order is None else rows[self._order]

    def unsort(self, rows: Tensor) -> Tensor:
        """Inverse of `sort`."""
        if self._order is None:
            return rows
        return torch.empty_like(rows).index_copy_(0, self._order, rows)

    def frames(self) -> list[list[Tile]]:
        """The tiles of every frame of every clip, in the order of the instances."""
        starts = [sum(self._counts[:clip]) for clip in range(len(self._counts))]
        return [
            list(self._tiles(clip, frame, start, start + count))
            for clip, (start, count) in enumerate(zip(starts, self._counts, strict=True))
            for frame in range(self.shape[1] if count else 0)
        ]

    def _tiles(self, clip: int, frame: int, start: int, stop: int) -> Iterator[Tile]:
        step = max(1, _PIXELS // (self.size[0] * self.size[1]))
        for a in range(start, stop, step):
            b = min(a + step, stop)
            rows = slice(a, b) if self._order is None else self._order[a:b]
            yield Tile(clip, frame, rows, a, b - a)

    def draw(self, tile: Tile, masks: Tensor) -> None:
        """Logits of a tile into [n, F*h, F*w], each mask contiguous."""
        self._run(self._compiled.forward, tile, masks)

    def draw_into(self, out: Tensor, tile: Tile) -> None:
        """The same into [N, T, F*h, F*w], of any float dtype."""
        if isinstance(tile.rows, slice) and out.dtype == self.dtype:
            self.draw(tile, out[tile.rows, tile.frame])
            return
        masks = self.new_masks(tile)
        self.draw(tile, masks)
        out[tile.rows, tile.frame] = masks.to(out.dtype)

    def new_masks(self, tile: Tile) -> Tensor:
        """Uninitialised, [n, F*h, F*w]."""
        return torch.empty(tile.count, *self.size, dtype=self.dtype)

    def start_backward(self, needs_features: bool) -> None:
        """Make room for gradients."""
        T, N = self.shape[1], self.N
        self._grad_features = torch.zeros_like(self._features) if needs_features else None
        self._grad_params = torch.zeros(T, *self._params.shape, dtype=self.dtype)
        self._grad_references = torch.zeros(N, T, 2, dtype=self.dtype)
        if self._grad_features is not None:
            self._arguments.grad_features = self._grad_features.data_ptr()
        self._arguments.grad_params = self._grad_params.data_ptr()
        self._arguments.grad_references = self._grad_references.data_ptr()

    def read(self, tile: Tile, grad: Tensor) -> None:
        """Add the gradients that follow from that of a tile's logits, [n, F*h, F*w]."""
        if grad.dtype != self.dtype or grad.stride()[1:] != (grad.shape[2], 1):
            grad = grad.to(self.dtype).contiguous()
        self._run(self._compiled.backward, tile, grad)

    def gradients(self) -> tuple[Tensor | None, Tensor, Tensor]:
        """Those of features, params and references, when every tile has been read."""
        d_params = self.unsort(sum_in_order(self._grad_params))
        return self._grad_features, d_params, self.unsort(self._grad_references)

    def _run(self, function: Any, tile: Tile, masks: Tensor) -> None:
        space = torch.empty(self._space, dtype=self.dtype)
        job = _Job(
            tile.clip, tile.frame, tile.first, tile.first + tile.count,
            masks.data_ptr(), masks.stride(0), space.data_ptr(),
        )  # fmt: skip
        function(ctypes.byref(self._arguments), ctypes.byref(job))


def compiled_for(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The C code, unless it cannot be compiled."""
    return library("mask_head", dtype)


def why_not_compiled(features: Tensor, params: Tensor, *references: Tensor) -> str | None:
    """Why `compiled_for` gives none; None where it gives one."""
    dtype = compute_dtype(features, params, *references)
    return why_not("mask_head", dtype) if compiled_for(dtype) is None else None


def network(inputs: MaskHeadInputs, head: MaskHeadConfig) -> Network | None:
    """None where the C code cannot be compiled."""
    compiled = compiled_for(inputs.compute_dtype)
    if compiled is None:
        return None
    compiled.space_of.restype = ctypes.c_int64
    compiled.forward.restype = compiled.backward.restype = None
    return Network(compiled, inputs, head)


def forward(inputs: MaskHeadInputs, head: MaskHeadConfig) -> Tensor:
    """Result as `op.forward`."""
    features, F = inputs.features, head.upsample
    _, T, _, h, w = features.shape
    out = features.new_empty(inputs.params.shape[0], T, F * h, F * w)
    net = network(inputs, head)
    if net is None:
        return cpu_torch.forward(inputs, head, out)
    run_jobs(net.draw_into, [(out, tile) for tiles in net.frames() for tile in tiles])
    return out


def backward(
    grad: Tensor, inputs: MaskHeadInputs, head: MaskHeadConfig, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Results as `op.backward`; None where not asked for."""
    net = network(inputs, head)
    if net is None:
        return cpu_torch.backward(grad, inputs, head, needs)

    def read_frame(tiles: list[Tile]) -> None:
        for tile in tiles:
            net.read(tile, grad[tile.rows, tile.frame])

    net.start_backward(needs[0])
    run_jobs(read_frame, [(tiles,) for tiles in net.frames()])
    return in_dtypes(net.gradients(), inputs, needs)


def sum_in_order(shares: Tensor) -> Tensor:
    """Sum over the first axis, whose order no number of threads changes."""
    total = shares[0].clone()
    for share in shares[1:]:
        total += share
    return total


class _Arguments(ctypes.Structure):
    """`Arguments` of cpu.c; absent pointers are null."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("features", "params", "references")),
        *((f"grad_{name}", ctypes.c_void_p) for name in ("features", "params", "references")),
        *((name, ctypes.c_int64) for name in ("T", "N", "C", "h", "w", "D", "layers", "F")),
        *((name, ctypes.c_int64) for name in ("relative", "stride")),
    )


class _Job(ctypes.Structure):
    """`Job` of cpu.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("clip", "frame", "first", "last")),
        ("pixels", ctypes.c_void_p),
        ("mask_stride", ctypes.c_int64),
        ("space", ctypes.c_void_p),
    )
