"""From tensors to launches of the mask losses' kernels, and the variants they come in.

Inputs are checked already (`__init__.py`). The backward ends with that of the mask head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..device import facts
from ..launch import KernelVariant, entry_for
from ..mask_head.inputs import MaskHeadConfig, MaskHeadInputs
from ..mask_head.launch import backward as backward_of_head
from ..mask_head.launch import contiguous, network_constants, row_tiles, run_kernel, variant_of
from ..mask_head.tiles import LaunchConfig
from . import tiles
from .inputs import LossTargets
from .triton_backward import loss_gradient_kernel
from .triton_forward import loss_kernel


def forward(inputs: MaskHeadInputs, head: MaskHeadConfig, given: LossTargets) -> Tensor:
    """Sums per instance, [N, 4] float32: focal, p * t, p, t. A launch, and a sum over programs."""
    inputs = contiguous(inputs)
    features, alpha, gamma = inputs.features, given.alpha, given.gamma
    targets, *sizes = _target_arguments(given)
    B, T, _, h, w = features.shape
    (N, G), F = inputs.params.shape, head.upsample
    config = loss_config(facts().capability(features.device), head)
    tile_rows, programs = row_tiles(
        h, w + (F > 2), config.cells - (F > 1), 32 * config.num_warps, N * T, h + (F > 2)
    )
    partials = features.new_empty((N, T * programs, 4), dtype=torch.float32)
    run_kernel(
        loss_kernel,
        (head, config, alpha, gamma),
        lambda arguments: loss_variant(arguments, head, config, alpha, gamma),
        N * T * programs,
        (*inputs, targets, given.index.contiguous(), partials),
        (G, B, T, h, w, head.stride, tile_rows, programs, *sizes),
    )
    return partials.sum(1)


def backward(
    grad_sums: Tensor,
    inputs: MaskHeadInputs,
    head: MaskHeadConfig,
    given: LossTargets,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Three launches: the gradient of the cells' logits, then the backward of the head without
    upsampling."""
    inputs = contiguous(inputs)
    features, alpha, gamma = inputs.features, given.alpha, given.gamma
    targets, *sizes = _target_arguments(given)
    B, T, _, h, w = features.shape
    N, G = inputs.params.shape
    config = loss_config(facts().capability(features.device), head)
    own = config.cells - 2 * (head.upsample > 1)
    tile_rows, programs = row_tiles(h, w, own, 32 * config.num_warps, N * T, h)
    grad = features.new_empty((N, T, h, w), dtype=torch.float32)
    run_kernel(
        loss_gradient_kernel,
        (head, config, alpha, gamma),
        lambda arguments: loss_gradient_variant(arguments, head, config, alpha, gamma),
        N * T * programs,
        (*inputs, targets, given.index.contiguous(), grad_sums.float().contiguous(), grad),
        (G, B, T, h, w, head.stride, tile_rows, programs, *sizes),
    )
    return backward_of_head(grad, inputs, head.without_upsampling(), needs)


@lru_cache(maxsize=256)
def loss_config(capability: int, head: MaskHeadConfig) -> LaunchConfig:
    """The entry; more upsampling than the default head's needs more registers than its bound."""
    config = entry_for(tiles.LOSS, capability)
    if head.upsample <= MaskHeadConfig.upsample:
        return config
    return replace(config, max_registers=None)


def loss_variant(
    arguments: dict[str, Any],
    head: MaskHeadConfig,
    config: LaunchConfig,
    alpha: float,
    gamma: float,
) -> KernelVariant:
    """How the kernel for the losses is compiled."""
    constants: dict[str, Any] = network_constants(head)
    constants |= {"F": head.upsample, "CELLS": config.cells}
    constants |= {"BP": 32 * config.num_warps, "ALPHA": alpha, "GAMMA": gamma}
    return variant_of(loss_kernel, arguments, constants, config)


def loss_gradient_variant(
    arguments: dict[str, Any],
    head: MaskHeadConfig,
    config: LaunchConfig,
    alpha: float,
    gamma: float,
) -> KernelVariant:
    """How the kernel for the gradient of the losses by the cells' logits is compiled."""
    constants = loss_variant(arguments, head, config, alpha, gamma).constants
    return variant_of(loss_gradient_kernel, arguments, dict(constants), config)


def _target_arguments(given: LossTargets) -> tuple[Tensor, int, int, int, int, int]:
    """Targets as bytes, and the numbers from `target_h` to the last."""
    M, _, height, width = given.masks.shape
    targets = given.masks.contiguous()
    if targets.dtype == torch.bool:
        targets = targets.view(torch.uint8)
    return targets, height, width, given.stride, M, 0
