"""Mask losses straight from features and parameters: the logits at stride 4 are never stored.

What the sigmoid focal loss (Lin et al. 2017) and the dice loss (Milletari et al. 2016) of an
instance need of its masks are four sums over the pixels of all frames. Letters as in
`mask_head/__init__.py`; M targets, H x W pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..backend import explained_by, is_reference_chosen
from ..mask_head import checked
from ..mask_head.inputs import MaskHeadConfig, MaskHeadInputs, check_index, check_values
from . import cpu, op, reference
from .inputs import LossTargets


class MaskLossSums(NamedTuple):
    """Sums over the T * F*h * F*w pixels of an instance, [N] each, float32 (float64 for float64).

    p is the sigmoid of a pixel's logit, t its target. Dice: `1 - (2 overlap + 1) / (area +
    target_area + 1)`.
    """

    focal: Tensor
    """Sigmoid focal loss."""
    overlap: Tensor
    """p * t."""
    area: Tensor
    """p."""
    target_area: Tensor
    """t; has no gradient."""


@explained_by(cpu.why_not_compiled)
def dynamic_mask_loss(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor | None,
    clip_index: Tensor,
    targets: Tensor,
    mask_stride: int = 8,
    *,
    target_index: Tensor | None = None,
    target_stride: int = 1,
    alpha: float = 0.25,
    gamma: float = 2.0,
    hidden_width: int = 8,
    num_layers: int = 3,
    relative_coordinates: bool = True,
    upsample: int = 2,
) -> MaskLossSums:
    """Focal and dice sums of every instance; equal to losses of `dynamic_mask_head`'s logits.

    Args:
        targets: [M, T, H, W] bool, or uint8 where everything but 0 is set. Pixel (y, x) of the
            logits is compared with `[s * y + s // 2, s * x + s // 2]`, s being `target_stride`;
            what lies beyond H and W is background, as the padding of a batch is.
        target_index: [N], the target of each instance; several may share one, as those of several
            decoder layers do. None: target i belongs to instance i, M = N.
        target_stride: 1 for targets of the logits' size; 4 samples those of full resolution at
            [2::4, 2::4] without copying them.
        alpha: weight of set pixels in the focal loss; the others weigh 1 - alpha.
        gamma: its exponent, not negative.
        The rest: as `dynamic_mask_head`.

    Returns: `MaskLossSums`, differentiable once in features, parameters and references.
    Raises: ValueError as `dynamic_mask_head`, and for targets that do not fit.
    """
    tensors = (mask_features, mask_params, reference_points, clip_index)
    inputs, head = checked(
        tensors, mask_stride, hidden_width, num_layers, relative_coordinates, upsample
    )
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, got {gamma}")
    index = _checked_index(inputs, head, targets, target_index, target_stride)
    given = LossTargets(targets, index, target_stride, float(alpha), float(gamma))
    if is_reference_chosen(*inputs[:3]):
        check_values(inputs)
        check_index("target_index", index, targets.shape[0], "targets")
        sums = reference.dynamic_mask_loss(inputs, head, given)
    else:
        sums = op.sums(inputs, head, given)
    return MaskLossSums(*sums.unbind(1))


def _checked_index(
    inputs: MaskHeadInputs,
    head: MaskHeadConfig,
    targets: Tensor,
    target_index: Tensor | None,
    target_stride: int,
) -> Tensor:
    """The index to use, for targets that fit."""
    features = inputs.features
    _, T, _, h, w = features.shape
    N, F = inputs.params.shape[0], head.upsample
    if targets.dtype not in (torch.bool, torch.uint8):
        raise ValueError(f"targets must be bool or uint8, got {targets.dtype}")
    if target_stride < 1:
        raise ValueError(f"target_stride must be at least 1, got {target_stride}")
    size = (target_stride * F * h, target_stride * F * w)
    if (
        targets.dim() != 4
        or targets.shape[1] != T
        or targets.shape[2] > size[0]
        or targets.shape[3] > size[1]
    ):
        raise ValueError(
            f"targets must be [M, T, H, W] with T = {T} and at most H, W = {size} for "
            f"mask_features {list(features.shape)}, upsample {F} and target_stride "
            f"{target_stride}; got {list(targets.shape)}"
        )
    if targets.device != features.device:
        raise ValueError(
            f"targets are on {targets.device} but mask_features is on {features.device}"
        )
    if target_index is None:
        if targets.shape[0] != N:
            raise ValueError(
                f"targets must be one per instance, M = N = {N}, unless target_index tells which; "
                f"got {list(targets.shape)}"
            )
        return torch.arange(N, device=targets.device)
    if list(target_index.shape) != [N] or target_index.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"target_index must be [N] = [{N}] integers (int64 or int32), got "
            f"{list(target_index.shape)} of {target_index.dtype}"
        )
    if target_index.device != targets.device:
        raise ValueError(f"target_index is on {target_index.device}, targets on {targets.device}")
    return target_index
