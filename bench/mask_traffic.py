"""Modelled memory traffic of the dynamic mask head's launches, beside the least possible.

A model, not a measurement. A launch reads from memory what it reads, once: programs run in order,
and what several of them share (a clip's features, an instance's parameters, pixels at the border of
a tile) is small enough for every L2 cache. The backward reads the gradient of the logits twice, in
programs that follow each other: the second time it comes from L2, if half of that holds what lies
between. Of what the launch before has touched, one that goes the other way finds in L2 as large a
share as L2 holds, and one that goes the same way finds all or nothing. What is written goes to
memory, also where it is soon read.

Letters as in `kernels/mask_head/__init__.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.mask_head import tiles as table
from kernels.mask_head.inputs import MaskHeadConfig
from kernels.mask_head.launch import backward_tile, parts_of, piece_of, strips
from kernels.mask_loss.tiles import LOSS

FLOAT, INDEX = 4, 8
"""Bytes of a parameter, reference, gradient of cells or partial sum; and of an index."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """One call.

    Attributes:
        clips, frames, instances: B, T, N.
        height, width: h, w.
        dtype: of features and logits; parameters and references are float32.
        targets: M, for the losses.
        target_bytes: of a pixel of a target.
    """

    clips: int
    frames: int
    instances: int
    height: int
    width: int
    dtype: torch.dtype = torch.float32
    targets: int = 0
    target_bytes: int = 1


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of one launch.

    Attributes:
        reads, writes: by tensor.
        twice: of the tensors read, the one that programs of two kinds read.
        between: bytes of it that they read between a first and the second reading.
        is_reversed: starts with what the launch before has touched last.
    """

    name: str
    reads: dict[str, int]
    writes: dict[str, int]
    twice: str | None = None
    between: int = 0
    is_reversed: bool = False

    @property
    def touched(self) -> int:
        return sum(self.reads.values()) + sum(self.writes.values())


def moved(launches: list[Traffic], l2_bytes: int) -> int:
    """Bytes between memory and an L2 cache of this size."""
    total, before = 0, None
    for launch in launches:
        kept = 0.0 if before is None else min(1.0, l2_bytes / before.touched)
        if not launch.is_reversed and kept < 1:
            kept = 0.0
        for tensor, size in launch.reads.items():
            is_shared = before is not None and tensor in before.reads | before.writes
            total += round(size * (1 - kept)) if is_shared else size
        if launch.twice is not None and launch.between > l2_bytes // 2:
            total += launch.reads[launch.twice]
        total += sum(launch.writes.values())
        before = launch
    return total


def forward(head: MaskHeadConfig, sizes: Sizes) -> list[Traffic]:
    """Reads its arguments, writes logits: there is nothing less."""
    return [
        Traffic(name="forward", reads=_inputs(head, sizes), writes={"logits": _logits(head, sizes)})
    ]


def backward(head: MaskHeadConfig, sizes: Sizes, capability: int = 90) -> list[Traffic]:
    """Feature gradients and partial sums of parameter gradients, then the sum of these."""
    gradient = {"gradient": _logits(head, sizes)}
    return _backward(head, sizes, gradient, capability)


def loss_forward(head: MaskHeadConfig, sizes: Sizes, capability: int = 90) -> list[Traffic]:
    """Reads arguments and targets, writes four sums per program."""
    tile, extra = table.tile_for(LOSS, capability), int(head.upsample > 2)
    frames = sizes.instances * sizes.frames
    rows = sizes.height + extra
    own = tile.cells - int(head.upsample > 1)
    lanes = 32 * tile.num_warps
    _, tiles = strips(sizes.height, sizes.width + extra, own, lanes, frames, rows)
    reads = _inputs(head, sizes) | {"targets": _targets(head, sizes)}
    return [
        Traffic(name="loss", reads=reads, writes={"partials": frames * tiles * 4 * FLOAT}),
        Traffic(
            name="sum",
            reads={"partials": frames * tiles * 4 * FLOAT},
            writes={"sums": sizes.instances * 4 * FLOAT},
        ),
    ]


def loss_backward(head: MaskHeadConfig, sizes: Sizes, capability: int = 90) -> list[Traffic]:
    """The gradient of cells, which is stored, then the backward without upsampling."""
    cells = sizes.instances * sizes.frames * sizes.height * sizes.width
    gradient = {"gradient": cells * FLOAT}
    first = Traffic(
        name="loss gradient",
        reads=_inputs(head, sizes)
        | {"targets": _targets(head, sizes), "grad_sums": sizes.instances * 4 * FLOAT},
        writes=gradient,
    )
    return [first, *_backward(head.without_upsampling(), sizes, gradient, capability)]


def least_forward(head: MaskHeadConfig, sizes: Sizes) -> int:
    """Every argument and the logits, once."""
    return sum(_inputs(head, sizes).values()) + _logits(head, sizes)


def least_backward(head: MaskHeadConfig, sizes: Sizes) -> int:
    """Every argument, the gradient of the logits and the three gradients, once."""
    written = sum(_gradients(head, sizes).values())
    return least_forward(head, sizes) + written


def least_loss_forward(head: MaskHeadConfig, sizes: Sizes) -> int:
    """Every argument, targets and sums, once."""
    sums = sizes.instances * 4 * FLOAT
    return sum(_inputs(head, sizes).values()) + _targets(head, sizes) + sums


def least_loss_backward(head: MaskHeadConfig, sizes: Sizes) -> int:
    """The same, and the three gradients."""
    return least_loss_forward(head, sizes) + sum(_gradients(head, sizes).values())


def _backward(
    head: MaskHeadConfig, sizes: Sizes, gradient: dict[str, int], capability: int
) -> list[Traffic]:
    cells = sizes.height * sizes.width
    tile = backward_tile(capability, head)
    parts = max(parts_of(head, tile), head.num_layers - 1)
    piece = piece_of(cells, sizes.frames * (sizes.clips + sizes.instances * parts), tile)
    partials = sizes.instances * sizes.frames * -(-cells // piece) * head.num_params * FLOAT
    inputs, gradients = _inputs(head, sizes), _gradients(head, sizes)
    first = Traffic(
        name="gradients",
        reads=inputs | gradient,
        writes={"grad_features": gradients.pop("grad_features"), "partials": partials},
        twice="gradient",
        between=gradient["gradient"] // sizes.frames * min(piece, cells) // cells,
    )
    of_params = {"partials": partials, "params": inputs["params"]}
    return [first, Traffic(name="sum", reads=of_params, writes=gradients, is_reversed=True)]


def _inputs(head: MaskHeadConfig, sizes: Sizes) -> dict[str, int]:
    return {
        "features": _features(head, sizes),
        "params": sizes.instances * head.num_params * FLOAT,
        "references": sizes.instances * sizes.frames * 2 * FLOAT,
        "clip_index": sizes.instances * INDEX,
    }


def _gradients(head: MaskHeadConfig, sizes: Sizes) -> dict[str, int]:
    inputs = _inputs(head, sizes)
    return {f"grad_{name}": inputs[name] for name in ("features", "params", "references")}


def _features(head: MaskHeadConfig, sizes: Sizes) -> int:
    frames = sizes.clips * sizes.frames
    return frames * head.channels * sizes.height * sizes.width * sizes.dtype.itemsize


def _logits(head: MaskHeadConfig, sizes: Sizes) -> int:
    return sizes.instances * sizes.dtype.itemsize * _pixels(head, sizes)


def _targets(head: MaskHeadConfig, sizes: Sizes) -> int:
    return sizes.targets * sizes.target_bytes * _pixels(head, sizes)


def _pixels(head: MaskHeadConfig, sizes: Sizes) -> int:
    """Of an instance, in all frames."""
    return sizes.frames * sizes.height * sizes.width * head.upsample**2
