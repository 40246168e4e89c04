"""From tensors to launches of the mask losses' kernels, and the variants they come in.

Inputs are checked already (`__init__.py`). The backward ends with that of the mask head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..device import facts
from ..launch import Variant
from ..mask_head.launch import backward as backward_of_head
from ..mask_head.launch import contiguous, network_constants, run_kernel, strips, variant_of
from ..mask_head.spec import MaskHead
from ..mask_head.tiles import Tile, tile_for
from . import tiles
from .triton_backward import loss_gradient_kernel
from .triton_forward import loss_kernel


def forward(
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
    tensors = contiguous(mask_features, mask_params, reference_points, clip_index)
    targets, *sizes = _target_arguments(targets, target_stride)
    B, T, _, h, w = mask_features.shape
    (N, G), F = mask_params.shape, head.upsample
    tile = tile_for(tiles.LOSS, facts().capability(mask_features.device))
    strip, programs = strips(
        h, w + (F > 2), tile.cells - (F > 1), 32 * tile.num_warps, N * T, h + (F > 2)
    )
    partials = mask_features.new_empty((N, T * programs, 4), dtype=torch.float32)
    run_kernel(
        loss_kernel,
        (head, tile, alpha, gamma),
        lambda arguments: loss_variant(arguments, head, tile, alpha, gamma),
        N * T * programs,
        (*tensors, targets, target_index.contiguous(), partials),
        (G, B, T, h, w, head.stride, strip, programs, *sizes),
    )
    return partials.sum(1)


def backward(
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
    tensors = contiguous(mask_features, mask_params, reference_points, clip_index)
    targets, *sizes = _target_arguments(targets, target_stride)
    B, T, _, h, w = mask_features.shape
    N, G = mask_params.shape
    tile = tile_for(tiles.LOSS, facts().capability(mask_features.device))
    own = tile.cells - 2 * (head.upsample > 1)
    strip, programs = strips(h, w, own, 32 * tile.num_warps, N * T, h)
    grad = mask_features.new_empty((N, T, h, w), dtype=torch.float32)
    given = (*tensors, targets, target_index.contiguous(), grad_sums.float().contiguous())
    run_kernel(
        loss_gradient_kernel,
        (head, tile, alpha, gamma),
        lambda arguments: loss_gradient_variant(arguments, head, tile, alpha, gamma),
        N * T * programs,
        (*given, grad),
        (G, B, T, h, w, head.stride, strip, programs, *sizes),
    )
    return backward_of_head(grad, *tensors, head.without_upsampling(), needs)


def loss_variant(
    arguments: dict[str, Any], head: MaskHead, tile: Tile, alpha: float, gamma: float
) -> Variant:
    """How the kernel for the losses is compiled."""
    constants = network_constants(head) | {"F": head.upsample, "CELLS": tile.cells}
    constants |= {"BP": 32 * tile.num_warps, "ALPHA": alpha, "GAMMA": gamma}
    return variant_of(loss_kernel, arguments, constants, tile)


def loss_gradient_variant(
    arguments: dict[str, Any], head: MaskHead, tile: Tile, alpha: float, gamma: float
) -> Variant:
    """How the kernel for the gradient of the losses by the cells' logits is compiled."""
    constants = loss_variant(arguments, head, tile, alpha, gamma).constants
    return variant_of(loss_gradient_kernel, arguments, dict(constants), tile)


def _target_arguments(
    targets: Tensor, target_stride: int
) -> tuple[Tensor, int, int, int, int, int]:
    """As bytes, and the numbers from `target_h` to the last."""
    M, _, height, width = targets.shape
    targets = targets.contiguous()
    if targets.dtype == torch.bool:
        targets = targets.view(torch.uint8)
    return targets, height, width, target_stride, M, 0
