"""Dynamic mask head: three 1x1 convolutions whose parameters come from the instance query.

CondInst (Tian et al. 2020) as SeqFormer uses it: the network of an instance sees the mask features
and its own relative coordinates, and draws the instance in every frame; the result is upsampled
twofold. Letters: B clips, T frames, N instances, h x w cells, G = 169 generated parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK_CHANNELS = 8
"""Channels of the mask features and of the two hidden layers."""

NUM_MASK_PARAMS = (
    MASK_CHANNELS * (MASK_CHANNELS + 2)
    + MASK_CHANNELS * MASK_CHANNELS
    + MASK_CHANNELS
    + MASK_CHANNELS
    + MASK_CHANNELS
    + 1
)
"""G: 80 + 64 + 8 weights, then 8 + 8 + 1 biases = 169."""


def dynamic_mask_head_reference(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    mask_stride: int = 8,
) -> Tensor:
    """The definition, in plain PyTorch. Same contract as `dynamic_mask_head`."""
    _check(mask_features, mask_params, reference_points, clip_index, mask_stride)
    _, T, channels, h, w = mask_features.shape
    N = mask_params.shape[0]
    w0, w1, w2, b0, b1, b2 = mask_params.split([80, 64, 8, 8, 8, 1], dim=1)

    # rel = ref - (stride*col + stride/2, stride*row + stride/2), in input pixels, not normalised
    def centres(n: int) -> Tensor:
        cells = torch.arange(n, device=reference_points.device, dtype=reference_points.dtype)
        return cells * mask_stride + mask_stride // 2

    rel_x = reference_points[:, :, 0, None, None] - centres(w)  # [N, T, 1, w]
    rel_y = reference_points[:, :, 1, None, None] - centres(h)[:, None]  # [N, T, h, 1]
    relative = torch.stack([rel_x.expand(N, T, h, w), rel_y.expand(N, T, h, w)], dim=1)
    features = mask_features.transpose(1, 2)[clip_index]  # [N, 8, T, h, w]
    x = torch.cat([relative.to(features.dtype), features], dim=1).flatten(2)  # [N, 10, T*h*w]
    x = torch.baddbmm(b0[:, :, None], w0.view(N, channels, channels + 2), x).relu()
    x = torch.baddbmm(b1[:, :, None], w1.view(N, channels, channels), x).relu()
    x = torch.baddbmm(b2[:, :, None], w2.view(N, 1, channels), x)
    return aligned_upsample_2x(x.view(N, T, h, w))


def aligned_upsample_2x(z: Tensor) -> Tensor:
    """Twofold bilinear upsampling of the last two axes, `out[o] = z at max(o - 1, 0) / 2`.

    Along an axis: out[2i + 1] = z[i], out[2i] = (z[i - 1] + z[i]) / 2 with z[-1] = z[0]; the values
    of AdelaiDet's aligned_bilinear (replicate pad, resize with aligned corners, crop).
    """
    for dim in (-1, -2):
        before = torch.cat([z.narrow(dim, 0, 1), z.narrow(dim, 0, z.shape[dim] - 1)], dim=dim)
        interleaved = torch.stack([(before + z) * 0.5, z], dim=z.dim() + dim + 1)
        z = interleaved.flatten(z.dim() + dim, z.dim() + dim + 1)
    return z


def dynamic_mask_head(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    mask_stride: int = 8,
) -> Tensor:
    """Draw every instance in every frame of its clip.

    Args:
        mask_features: [B, T, 8, h, w], output of the mask branch.
        mask_params: [N, 169] per instance: W0 [8, 10], W1 [8, 8], W2 [1, 8], b0 [8], b1 [8],
            b2 [1], each row-major; the inputs of W0 are rel_x, rel_y, then the 8 features.
        reference_points: [N, T, 2], (x, y) in input pixels; the relative coordinates of a cell are
            reference minus cell centre, in pixels.
        clip_index: [N] int64, the clip each instance belongs to.
        mask_stride: input pixels per cell of `mask_features`.

    Returns: [N, T, 2h, 2w] logits at half `mask_stride`; differentiable in features, parameters
        and references. N = 0 gives an empty result that is still attached to the graph.
    Raises: ValueError naming the argument and both shapes when they disagree.
    """
    # One implementation so far: "auto" and "reference" are the same code.
    return dynamic_mask_head_reference(
        mask_features, mask_params, reference_points, clip_index, mask_stride
    )


def _check(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    mask_stride: int,
) -> None:
    if mask_features.dim() != 5 or mask_features.shape[2] != MASK_CHANNELS:
        raise ValueError(
            f"mask_features must be [B, T, {MASK_CHANNELS}, h, w], got {list(mask_features.shape)}"
        )
    if mask_params.dim() != 2 or mask_params.shape[1] != NUM_MASK_PARAMS:
        raise ValueError(
            f"mask_params must be [N, {NUM_MASK_PARAMS}] "
            f"(8*10 + 8*8 + 8 weights, 8 + 8 + 1 biases), got {list(mask_params.shape)}"
        )
    N, T = mask_params.shape[0], mask_features.shape[1]
    if list(reference_points.shape) != [N, T, 2]:
        raise ValueError(
            f"reference_points must be [N, T, 2] = {[N, T, 2]}, got {list(reference_points.shape)}"
        )
    if list(clip_index.shape) != [N] or clip_index.is_floating_point():
        raise ValueError(
            f"clip_index must be [N] = [{N}] integers, got {list(clip_index.shape)} "
            f"of {clip_index.dtype}"
        )
    if mask_stride < 2 or mask_stride % 2:
        raise ValueError(f"mask_stride must be a positive even number, got {mask_stride}")
