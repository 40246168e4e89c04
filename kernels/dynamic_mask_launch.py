"""From tensors to launches of the dynamic mask head's kernels, and the variants they come in.

Inputs are checked already (`dynamic_mask.py`). Layout of programs: `dynamic_mask_triton.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from . import dynamic_mask_table as table
from .dynamic_mask_spec import MaskHead
from .dynamic_mask_triton import forward_kernel
from .dynamic_mask_triton_backward import feature_kernel, parameter_kernel
from .dynamic_mask_triton_loss import loss_gradient_kernel, loss_kernel
from .launch import Case, Variant, capability_of, pointer_type


def forward(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    head: MaskHead,
) -> Tensor:
    """One launch. Arguments and result as `dynamic_mask_ops.forward`."""
    tensors = _contiguous(mask_features, mask_params, reference_points, clip_index)
    _, T, _, h, w = mask_features.shape
    N, F = mask_params.shape[0], head.upsample
    out = mask_features.new_empty(N, T, F * h, F * w)
    tile = _tile(table.FORWARD, out)
    halo = int(F > 1)
    strip, tiles = strips(
        h, w + (F > 2), tile.cells - halo, 32 * tile.num_warps, N * T, h + (F > 2)
    )
    arguments = tensors | {"out": out} | _sizes(mask_features, mask_params, head)
    arguments |= {"B": mask_features.shape[0], "strip": strip, "tiles": tiles}
    forward_variant(arguments, head, tile).run(N * T * tiles, arguments)
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
    """Two launches. Arguments and results as `dynamic_mask_ops.backward`; None where not asked."""
    needs_features, needs_params = needs
    tensors = _contiguous(mask_features, mask_params, reference_points, clip_index)
    B, T, _, h, w = mask_features.shape
    N, G = mask_params.shape
    capability = capability_of(grad.device)
    params_tile = backward_tile(table.PARAMETERS, capability, head)
    features_tile = backward_tile(table.FEATURES, capability, head)
    shared = tensors | {"grad": grad.contiguous()} | _sizes(mask_features, mask_params, head)

    pieces = 1
    partials = grad.new_empty(0, dtype=torch.float32)
    if needs_params and N:
        parts = parts_of(head)
        piece = piece_of(h * w, N * T * parts, params_tile)
        pieces = -(-h * w // piece)
        partials = grad.new_empty(N, T, pieces, G, dtype=torch.float32)
        arguments = shared | {"partials": partials, "piece": piece, "pieces": pieces, "B": B}
        arguments |= {"still": 0}
        variant = parameter_variant(arguments, head, params_tile)
        variant.run(N * T * pieces * parts, arguments)

    def empty(like: Tensor, needed: bool) -> Tensor:
        return torch.empty(like.shape if needed else 0, dtype=like.dtype, device=like.device)

    grads = {
        "grad_features": empty(mask_features, needs_features),
        "grad_params": empty(mask_params, needs_params),
        "grad_references": empty(reference_points, needs_params),
    }
    if not head.relative_coordinates:
        grads["grad_references"].zero_()
    block = features_tile.cells * 32 * features_tile.num_warps
    feature_programs = B * T * -(-h * w // block) if needs_features else 0
    arguments = shared | grads | {"partials": partials, "pieces": pieces, "N": N}
    arguments |= {"summed": N if needs_params else 0, "still": 0}
    variant = feature_variant(arguments, head, features_tile)
    variant.run(feature_programs + arguments["summed"], arguments)
    return (
        grads["grad_features"] if needs_features else None,
        grads["grad_params"] if needs_params else None,
        grads["grad_references"] if needs_params else None,
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
    _, T, _, h, w = mask_features.shape
    N, F = mask_params.shape[0], head.upsample
    tile = _tile(table.LOSS, mask_features)
    halo = int(F > 1)
    strip, tiles = strips(
        h, w + (F > 2), tile.cells - halo, 32 * tile.num_warps, N * T, h + (F > 2)
    )
    partials = mask_features.new_empty(N, T * tiles, 4, dtype=torch.float32)
    arguments = tensors | _sizes(mask_features, mask_params, head)
    arguments |= _target_arguments(targets, target_index, target_stride)
    arguments |= {"partials": partials, "strip": strip, "tiles": tiles, "B": mask_features.shape[0]}
    loss_variant(arguments, head, tile, alpha, gamma).run(N * T * tiles, arguments)
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
    B, T, _, h, w = mask_features.shape
    N = mask_params.shape[0]
    tile = _tile(table.LOSS, mask_features)
    own = tile.cells - 2 * (head.upsample > 1)
    strip, tiles = strips(h, w, own, 32 * tile.num_warps, N * T, h)
    grad = mask_features.new_empty(N, T, h, w, dtype=torch.float32)
    arguments = tensors | _sizes(mask_features, mask_params, head)
    arguments |= _target_arguments(targets, target_index, target_stride)
    arguments |= {"grad_sums": grad_sums.float().contiguous(), "grad": grad}
    arguments |= {"strip": strip, "tiles": tiles, "B": B}
    variant = loss_gradient_variant(arguments, head, tile, alpha, gamma)
    variant.run(N * T * tiles, arguments)
    cells = (mask_features, mask_params, reference_points, clip_index)
    return backward(grad, *cells, head.without_upsampling(), needs)


def forward_variant(arguments: dict[str, Any], head: MaskHead, tile: table.Tile) -> Variant:
    """How the forward kernel is compiled for these arguments (tensors or dtypes)."""
    constants = _network(head) | {"F": head.upsample, "CELLS": tile.cells}
    constants |= {"ROWS": 1, "BP": 32 * tile.num_warps}
    return _variant(forward_kernel, arguments, constants, tile)


def parameter_variant(arguments: dict[str, Any], head: MaskHead, tile: table.Tile) -> Variant:
    """How the kernel for the gradients of parameters is compiled."""
    constants = _network(head) | {"F": head.upsample, "UNITS": _units(head)}
    constants |= {"E": tile.cells, "BP": 32 * tile.num_warps}
    return _variant(parameter_kernel, arguments, constants, tile)


def feature_variant(arguments: dict[str, Any], head: MaskHead, tile: table.Tile) -> Variant:
    """How the kernel for the gradients of features is compiled."""
    constants = _network(head) | {"F": head.upsample, "E": tile.cells, "BP": 32 * tile.num_warps}
    constants |= {"BG": 1 << (head.num_params - 1).bit_length()}
    return _variant(feature_kernel, arguments, constants, tile)


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
    kernel: Any, arguments: dict[str, Any], constants: dict[str, Any], tile: table.Tile
) -> Variant:
    types = {
        name: "i32" if isinstance(value, int) else pointer_type(value)
        for name, value in arguments.items()
    }
    return Variant(
        kernel=kernel,
        types=types,
        constants=constants,
        num_warps=tile.num_warps,
        max_registers=tile.max_registers,
        rows=constants["BP"],
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
) -> dict[str, Tensor]:
    if any(t.dtype == torch.float64 for t in (mask_features, mask_params, reference_points)):
        raise ValueError(
            "float64 has no Triton kernel of the dynamic mask head; use float32, or the backend "
            "'reference'"
        )
    return {
        "features": mask_features.contiguous(),
        "params": mask_params.contiguous(),
        "references": reference_points.contiguous(),
        "clip_index": clip_index.contiguous(),
    }


def _sizes(mask_features: Tensor, mask_params: Tensor, head: MaskHead) -> dict[str, int]:
    _, T, _, h, w = mask_features.shape
    return {"G": mask_params.shape[1], "T": T, "h": h, "w": w, "stride": head.stride}


def _target_arguments(targets: Tensor, target_index: Tensor, target_stride: int) -> dict[str, Any]:
    targets = targets.contiguous()
    return {
        "targets": targets.view(torch.uint8) if targets.dtype == torch.bool else targets,
        "target_index": target_index.contiguous(),
        "target_h": targets.shape[2],
        "target_w": targets.shape[3],
        "target_stride": target_stride,
        "M": targets.shape[0],
        "still": 0,
    }


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


def backward_tile(entries: dict[int, table.Tile], capability: int, head: MaskHead) -> table.Tile:
    """The entry; a wide or deep network leaves registers for half as many cells."""
    tile = table.tile_for(entries, capability)
    is_large = head.hidden_width > 8 or head.num_layers > 3
    return replace(tile, cells=max(1, tile.cells // 2)) if is_large else tile


def parts_of(head: MaskHead) -> int:
    """Programs that share the parameters of an instance: one per hidden layer, or more."""
    return (head.num_layers - 1) * head.hidden_width // _units(head)


def _units(head: MaskHead) -> int:
    """Units of a layer whose sums a program keeps in registers."""
    return head.hidden_width if head.hidden_width * (head.inputs + 1) <= table.MAX_SUMS else 4


def piece_of(cells: int, programs: int, tile: table.Tile) -> int:
    """Cells that a program sums parameter gradients over: many, since every program ends with a sum
    over its lanes, as long as there are programs enough.

    Args:
        programs: of a launch whose pieces are whole frames.
    """
    block = tile.cells * 32 * tile.num_warps
    piece = table.LONGEST_PIECE
    while piece > 1 and programs * -(-cells // (piece * block)) < table.ENOUGH_PROGRAMS:
        piece //= 2
    return piece * block


def _tile(entries: dict[int, table.Tile], tensor: Tensor) -> table.Tile:
    return table.tile_for(entries, capability_of(tensor.device))


def _case(capability: int, kind: str, dtype: torch.dtype, head: MaskHead) -> Case:
    real, integer = torch.float32, torch.int64
    numbers = (
        *"GBNThw",
        *("stride", "strip", "tiles", "piece", "pieces", "summed", "still"),
        *("target_h", "target_w", "target_stride", "M"),
    )
    arguments: dict[str, Any] = dict.fromkeys(numbers, 1)
    arguments |= {"features": dtype, "clip_index": integer, "out": dtype}
    arguments |= {"targets": torch.uint8, "target_index": integer, "grad_sums": real}
    arguments |= dict.fromkeys(("params", "references", "partials"), real)
    arguments |= {"grad_features": dtype, "grad_params": real, "grad_references": real}
    # The losses give the gradient of cells in float32.
    is_of_losses = head == SEQFORMER.without_upsampling()
    arguments["grad"] = real if is_of_losses or kind == "loss gradient" else dtype
    if kind == "forward":
        variant = forward_variant(arguments, head, table.tile_for(table.FORWARD, capability))
    elif kind == "parameters":
        tile = backward_tile(table.PARAMETERS, capability, head)
        variant = parameter_variant(arguments, head, tile)
    elif kind == "features":
        tile = backward_tile(table.FEATURES, capability, head)
        variant = feature_variant(arguments, head, tile)
    else:
        form = loss_variant if kind == "loss" else loss_gradient_variant
        variant = form(arguments, head, table.tile_for(table.LOSS, capability), 0.25, 2.0)
    name = f"mask {kind} {str(dtype).removeprefix('torch.')}"
    if head != SEQFORMER:
        name += f" C{head.channels} D{head.hidden_width} K{head.num_layers} F{head.upsample}"
        name += " absolute" * (not head.relative_coordinates)
    is_launched = head == SEQFORMER or (is_of_losses and kind in ("parameters", "features"))
    # Half precision of the model is left to the whole table, for the time that it takes.
    return Case(name=name, variant=variant, is_model=is_launched and dtype == real)


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

HEAD_KINDS = ("forward", "parameters", "features")
LOSS_KINDS = ("loss", "loss gradient")


def compile_cases(capability: int) -> list[Case]:
    """Every launch of the model on a GPU of this compute capability, and those of its relatives."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    cells = SEQFORMER.without_upsampling()
    wanted = [(kind, dtype, SEQFORMER) for kind in HEAD_KINDS + LOSS_KINDS for dtype in dtypes]
    # The backward of the losses ends with these.
    wanted += [(kind, dtype, cells) for kind in ("parameters", "features") for dtype in dtypes]
    wanted += [(kind, torch.float32, head) for kind in HEAD_KINDS for head in RELATIVES]
    # Of the network, losses use what the forward uses; upsampling is their own.
    wanted += [(kind, torch.float32, head) for kind in LOSS_KINDS for head in RELATIVES[:2]]
    return [_case(capability, *case) for case in dict.fromkeys(wanted)]
