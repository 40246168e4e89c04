"""From tensors to launches of the dynamic mask head's kernels, and the variants they come in.

Inputs are checked already (`__init__.py`). Layout of programs: `triton_forward.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..device import facts
from ..launch import Case, Variant, argument_type, launch_of
from ..mask_loss.triton_forward import loss_gradient_kernel, loss_kernel
from . import tiles as table
from .spec import MaskHead
from .triton_backward import gradient_kernel, sum_kernel
from .triton_forward import forward_kernel


def forward(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    head: MaskHead,
) -> Tensor:
    """One launch. Arguments and result as `op.forward`."""
    tensors = _contiguous(mask_features, mask_params, reference_points, clip_index)
    B, T, _, h, w = mask_features.shape
    (N, G), F = mask_params.shape, head.upsample
    out = mask_features.new_empty((N, T, F * h, F * w))
    tile = forward_tile(facts().capability(out.device), head)
    strip, tiles = strips(
        h, w + (F > 2), tile.cells - (F > 1), 32 * tile.num_warps, N * T, h + (F > 2)
    )
    _run(
        forward_kernel,
        (head, tile),
        lambda arguments: forward_variant(arguments, head, tile),
        N * T * tiles,
        (*tensors, out),
        (G, B, T, h, w, head.stride, strip, tiles, 0),
    )
    return out


def backward(
    grad: Tensor,
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    head: MaskHead,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Two launches. Arguments and results as `op.backward`; None where not asked."""
    needs_features, needs_params = needs
    tensors = _contiguous(mask_features, mask_params, reference_points, clip_index)
    B, T, _, h, w = mask_features.shape
    N, G = mask_params.shape
    tile = backward_tile(facts().capability(grad.device), head)
    clips, instances = B * needs_features, N * needs_params
    parts = parts_of(head, tile)
    works = T * (clips + instances * max(parts, head.num_layers - 1))
    piece = piece_of(h * w, works, tile)
    pieces = -(-h * w // piece)
    blocks = piece // tile.block(tile.feature_cells)

    grad_features = mask_features.new_empty(mask_features.shape if needs_features else 0)
    partials = grad.new_empty((instances, T, pieces, G), dtype=torch.float32)
    sizes = (G, B, N, T, h, w, head.stride)
    _run(
        gradient_kernel,
        (head, tile),
        lambda arguments: gradient_variant(arguments, head, tile),
        T * pieces * (clips * blocks + instances * parts),
        (*tensors, grad.contiguous(), grad_features, partials),
        (*sizes, piece, pieces, clips, instances, 0),
    )

    grad_params = mask_params.new_empty(mask_params.shape if needs_params else 0)
    grad_references = reference_points.new_empty(reference_points.shape if needs_params else 0)
    if not head.relative_coordinates:
        grad_references.zero_()
    _run(
        sum_kernel,
        head,
        lambda arguments: sum_variant(arguments, head),
        instances,
        (partials, tensors[1], grad_params, grad_references),
        (G, T, pieces),
    )
    return (
        grad_features if needs_features else None,
        grad_params if needs_params else None,
        grad_references if needs_params else None,
    )


def loss_forward(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    targets: Tensor,
    target_index: Tensor,
    head: MaskHead,
    target_stride: int,
    alpha: float,
    gamma: float,
) -> Tensor:
    """Sums per instance, [N, 4] float32: focal, p * t, p, t. A launch, and a sum over programs."""
    tensors = _contiguous(mask_features, mask_params, reference_points, clip_index)
    targets, *sizes = _target_arguments(targets, target_stride)
    B, T, _, h, w = mask_features.shape
    (N, G), F = mask_params.shape, head.upsample
    tile = _tile(table.LOSS, mask_features)
    strip, tiles = strips(
        h, w + (F > 2), tile.cells - (F > 1), 32 * tile.num_warps, N * T, h + (F > 2)
    )
    partials = mask_features.new_empty((N, T * tiles, 4), dtype=torch.float32)
    _run(
        loss_kernel,
        (head, tile, alpha, gamma),
        lambda arguments: loss_variant(arguments, head, tile, alpha, gamma),
        N * T * tiles,
        (*tensors, targets, target_index.contiguous(), partials),
        (G, B, T, h, w, head.stride, strip, tiles, *sizes),
    )
    return partials.sum(1)


def loss_backward(
    grad_sums: Tensor,
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    targets: Tensor,
    target_index: Tensor,
    head: MaskHead,
    target_stride: int,
    alpha: float,
    gamma: float,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Three launches: the gradient of the cells' logits, then the backward of the head without
    upsampling."""
    tensors = _contiguous(mask_features, mask_params, reference_points, clip_index)
    targets, *sizes = _target_arguments(targets, target_stride)
    B, T, _, h, w = mask_features.shape
    N, G = mask_params.shape
    tile = _tile(table.LOSS, mask_features)
    own = tile.cells - 2 * (head.upsample > 1)
    strip, tiles = strips(h, w, own, 32 * tile.num_warps, N * T, h)
    grad = mask_features.new_empty((N, T, h, w), dtype=torch.float32)
    given = (*tensors, targets, target_index.contiguous(), grad_sums.float().contiguous())
    _run(
        loss_gradient_kernel,
        (head, tile, alpha, gamma),
        lambda arguments: loss_gradient_variant(arguments, head, tile, alpha, gamma),
        N * T * tiles,
        (*given, grad),
        (G, B, T, h, w, head.stride, strip, tiles, *sizes),
    )
    return backward(grad, *tensors, head.without_upsampling(), needs)


def _run(
    kernel: Any,
    form: Hashable,
    make: Callable[[dict[str, Any]], Variant],
    programs: int,
    tensors: tuple[Tensor, ...],
    numbers: tuple[int, ...],
) -> None:
    """Launch with arguments in the kernel's order; the rest as `launch_of`."""
    launch = launch_of(kernel, form, make, tensors, numbers)
    launch.run(programs, tensors[0].device, *tensors, *numbers)


def forward_variant(arguments: dict[str, Any], head: MaskHead, tile: table.Tile) -> Variant:
    """How the forward kernel is compiled for these arguments (tensors or dtypes)."""
    constants = _network(head) | {"F": head.upsample, "CELLS": tile.cells}
    constants |= {"ROWS": 1, "BP": 32 * tile.num_warps}
    return _variant(forward_kernel, arguments, constants, tile)


def gradient_variant(
    arguments: dict[str, Any], head: MaskHead, tile: table.BackwardTile
) -> Variant:
    """How the kernel for gradients of features and partial sums of parameters is compiled."""
    constants = _network(head) | {"F": head.upsample, "UNITS": _units(head, tile)}
    constants |= {"PARAMETER_E": tile.parameter_cells, "FEATURE_E": tile.feature_cells}
    return _variant(gradient_kernel, arguments, constants | {"BP": 32 * tile.num_warps}, tile)


def sum_variant(arguments: dict[str, Any], head: MaskHead) -> Variant:
    """How the kernel that adds up partial sums is compiled."""
    constants = _network(head) | {"BG": 1 << (head.num_params - 1).bit_length()}
    return _variant(sum_kernel, arguments, constants, table.SUM)


def loss_variant(
    arguments: dict[str, Any], head: MaskHead, tile: table.Tile, alpha: float, gamma: float
) -> Variant:
    """How the kernel for the losses is compiled."""
    constants = _network(head) | {"F": head.upsample, "CELLS": tile.cells}
    constants |= {"BP": 32 * tile.num_warps, "ALPHA": alpha, "GAMMA": gamma}
    return _variant(loss_kernel, arguments, constants, tile)


def loss_gradient_variant(
    arguments: dict[str, Any], head: MaskHead, tile: table.Tile, alpha: float, gamma: float
) -> Variant:
    """How the kernel for the gradient of the losses by the cells' logits is compiled."""
    constants = loss_variant(arguments, head, tile, alpha, gamma).constants
    return _variant(loss_gradient_kernel, arguments, dict(constants), tile)


def _variant(
    kernel: Any,
    arguments: dict[str, Any],
    constants: dict[str, Any],
    tile: table.Tile | table.BackwardTile,
) -> Variant:
    types = {name: argument_type(value) for name, value in arguments.items()}
    return Variant(
        kernel=kernel,
        types=types,
        constants=constants,
        num_warps=tile.num_warps,
        max_registers=tile.max_registers,
        rows=32 * tile.num_warps,
    )


def _network(head: MaskHead) -> dict[str, int]:
    return {
        "C": head.channels,
        "D": head.hidden_width,
        "K": head.num_layers,
        "R": int(head.relative_coordinates),
    }


def _contiguous(
    mask_features: Tensor, mask_params: Tensor, reference_points: Tensor, clip_index: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    floats = (mask_features.dtype, mask_params.dtype, reference_points.dtype)
    if torch.float64 in floats:
        raise ValueError(
            "float64 has no Triton kernel of the dynamic mask head; use float32, or the backend "
            "'reference'"
        )
    return (
        mask_features.contiguous(),
        mask_params.contiguous(),
        reference_points.contiguous(),
        clip_index.contiguous(),
    )


def _target_arguments(
    targets: Tensor, target_stride: int
) -> tuple[Tensor, int, int, int, int, int]:
    """As bytes, and the numbers from `target_h` to the last."""
    M, _, height, width = targets.shape
    targets = targets.contiguous()
    if targets.dtype == torch.bool:
        targets = targets.view(torch.uint8)
    return targets, height, width, target_stride, M, 0


@lru_cache(maxsize=1024)
def strips(
    h: int, columns: int, columns_per_lane: int, lanes: int, frames: int, rows: int
) -> tuple[int, int]:
    """Rows that a lane walks down, and programs per frame: long strips where there is work for all
    of the GPU, since every strip evaluates one row more."""
    per_row = -(-columns // columns_per_lane)
    strip = table.LONGEST_STRIP
    while strip > 1 and frames * per_row * -(-rows // strip) < table.ENOUGH_LANES:
        strip //= 2
    return strip, -(-per_row * -(-rows // strip) // lanes)


@lru_cache(maxsize=256)
def forward_tile(capability: int, head: MaskHead) -> table.Tile:
    """The entry; its bound on registers is for SeqFormer's head."""
    tile = table.tile_for(table.FORWARD, capability)
    is_ours = replace(head, stride=SEQFORMER.stride) == SEQFORMER
    return tile if is_ours else replace(tile, max_registers=None)


@lru_cache(maxsize=256)
def backward_tile(capability: int, head: MaskHead) -> table.BackwardTile:
    """The entry; a wide or deep network leaves registers for half as many cells."""
    tile = table.tile_for(table.BACKWARD, capability)
    return tile.halved() if head.hidden_width > 8 or head.num_layers > 3 else tile


@lru_cache(maxsize=256)
def parts_of(head: MaskHead, tile: table.BackwardTile) -> int:
    """Programs that share the parameters of an instance: one, or one or more per hidden layer."""
    units = _units(head, tile)
    return 1 if units > head.hidden_width else (head.num_layers - 1) * head.hidden_width // units


def _units(head: MaskHead, tile: table.BackwardTile) -> int:
    """Units of a layer whose sums a program keeps in registers; more than a layer has: all sums."""
    if head.num_params <= tile.max_sums:
        return head.num_params
    return head.hidden_width if head.hidden_width * (head.inputs + 1) <= table.MAX_SUMS else 4


@lru_cache(maxsize=1024)
def piece_of(cells: int, works: int, tile: table.BackwardTile) -> int:
    """Cells that a program sums parameter gradients over: many, since every program ends with a sum
    over its lanes, as long as there is work enough for many.

    Args:
        works: of a launch whose pieces are whole frames: a program that sums all layers has one
            for each.
    """
    block = tile.block(max(tile.parameter_cells, tile.feature_cells))
    piece = table.LONGEST_PIECE
    while piece > 1 and works * -(-cells // (piece * block)) < table.ENOUGH_PROGRAMS:
        piece //= 2
    return piece * block


def _tile(entries: dict[int, table.Tile], tensor: Tensor) -> table.Tile:
    return table.tile_for(entries, facts().capability(tensor.device))


def _case(capability: int, kind: str, dtype: torch.dtype, head: MaskHead) -> Case:
    real, integer = torch.float32, torch.int64
    numbers = (
        *"GBNThw",
        *("stride", "strip", "tiles", "piece", "pieces", "still"),
        *("feature_clips", "param_instances"),
        *("target_h", "target_w", "target_stride", "M"),
    )
    arguments: dict[str, Any] = dict.fromkeys(numbers, 1)
    arguments |= {"features": dtype, "clip_index": integer, "out": dtype}
    arguments |= {"targets": torch.uint8, "target_index": integer, "grad_sums": real}
    arguments |= dict.fromkeys(("parameters", "references", "partials"), real)
    arguments |= {"grad_features": dtype, "grad_params": real, "grad_references": real}
    # The losses give the gradient of cells in float32.
    is_of_losses = head == SEQFORMER.without_upsampling()
    arguments["grad"] = real if is_of_losses or kind == "loss gradient" else dtype
    if kind == "forward":
        variant = forward_variant(arguments, head, forward_tile(capability, head))
    elif kind == "gradients":
        variant = gradient_variant(arguments, head, backward_tile(capability, head))
    elif kind == "sum":
        variant = sum_variant(arguments, head)
    else:
        form = loss_variant if kind == "loss" else loss_gradient_variant
        variant = form(arguments, head, table.tile_for(table.LOSS, capability), 0.25, 2.0)
    name = f"mask {kind} {str(dtype).removeprefix('torch.')}"
    if head != SEQFORMER:
        name += f" C{head.channels} D{head.hidden_width} K{head.num_layers} F{head.upsample}"
        name += " absolute" * (not head.relative_coordinates)
    is_launched = head == SEQFORMER or (is_of_losses and kind == "gradients")
    return Case(name=name, variant=variant, is_model=is_launched)


SEQFORMER = MaskHead(8, 8, 3, True, 2, 8)

RELATIVES = (
    MaskHead(8, 8, 3, True, 1, 8),
    MaskHead(8, 8, 3, True, 4, 8),
    MaskHead(8, 8, 3, False, 2, 8),
    MaskHead(8, 8, 2, True, 2, 8),
    MaskHead(8, 8, 4, True, 2, 8),
    MaskHead(16, 16, 3, True, 2, 8),
)
"""Heads of other models: each choice by itself."""

HEAD_KINDS = ("forward", "gradients")
LOSS_KINDS = ("loss", "loss gradient")


def compile_cases(capability: int) -> list[Case]:
    """Every launch of the model on a GPU of this compute capability, and those of its relatives."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    cells = SEQFORMER.without_upsampling()
    wanted = [(kind, dtype, SEQFORMER) for kind in HEAD_KINDS + LOSS_KINDS for dtype in dtypes]
    # The backward of the losses ends with it.
    wanted += [("gradients", dtype, cells) for dtype in dtypes]
    wanted += [("sum", torch.float32, SEQFORMER)]
    wanted += [(kind, torch.float32, head) for kind in HEAD_KINDS for head in RELATIVES]
    # Of the network, losses use what the forward uses; upsampling is their own.
    wanted += [(kind, torch.float32, head) for kind in LOSS_KINDS for head in RELATIVES[:2]]
    return [_case(capability, *case) for case in dict.fromkeys(wanted)]
