"""Mask features from the encoder output, and drawing masks of chosen queries.

`render_masks` has no parameters, so it may be called outside `forward`, for just the queries that
are matched or output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from .._kernels import kernels

if TYPE_CHECKING:
    from kernels import RunLengths

MASK_CHANNELS = 8
"""Channels of the mask features; the dynamic mask head is made for this number."""

NUM_MASK_PARAMS = kernels.MaskHeadConfig(MASK_CHANNELS).num_params
"""Parameters of an instance's head: 80 + 64 + 8 weights, then 8 + 8 + 1 biases = 169."""


class MaskBranch(nn.Module):
    """Top-down pyramid over the encoder output of the three finest levels, computed once."""

    def __init__(self, dim: int, mask_dim: int) -> None:
        super().__init__()
        self.lay1 = nn.Conv2d(dim, mask_dim, 3, padding=1)
        self.lay2 = nn.Conv2d(mask_dim, MASK_CHANNELS, 3, padding=1)
        self.lay3 = nn.Conv2d(dim, dim, 3, padding=1)
        self.lay4 = nn.Conv2d(dim, dim, 3, padding=1)
        self.dcn = nn.Conv2d(dim, dim, 3, padding=1)  # a plain convolution; the name is historical
        for conv in (self.lay1, self.lay2, self.lay3, self.lay4, self.dcn):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        """Three maps [n, C, h, w], finest first, any sizes. Returns [n, 8, h, w], non-negative."""
        x = self.lay3(coarse).relu_()
        x = self.lay4(middle + F.interpolate(x, size=middle.shape[-2:])).relu_()
        x = self.dcn(fine + F.interpolate(x, size=fine.shape[-2:])).relu_()
        x = self.lay1(x).relu_()
        # parity: the last ReLU is real; mask features are never negative.
        return self.lay2(x).relu_()


def render_masks(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points_px: Tensor,
    clip_index: Tensor,
    mask_stride: int,
) -> Tensor:
    """Mask logits of N chosen queries in every frame.

    Args:
        mask_features: [B, T, 8, h, w].
        mask_params: [N, 169].
        reference_points_px: [N, T, 2], (x, y) in input pixels.
        clip_index: [N] int64, the clip of each query.
        mask_stride: input pixels per cell of `mask_features`.

    Returns: [N, T, 2h, 2w] logits at half `mask_stride`.
    """
    return kernels.dynamic_mask_head(
        mask_features, mask_params, reference_points_px, clip_index, mask_stride
    )


def mask_loss_sums(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points_px: Tensor,
    clip_index: Tensor,
    mask_stride: int,
    targets: Tensor,
    target_index: Tensor,
    focal_alpha: float,
    focal_gamma: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the mask losses need of N chosen queries, without storing their logits.

    Args:
        targets: [M, T, 2h, 2w] bool.
        target_index: [N], the target of each query.
        focal_alpha, focal_gamma: of the focal loss.
        The rest: as `render_masks`.

    Returns: sums over the pixels of all frames, [N] each: focal loss, p * t, p and t, where p is
        the sigmoid of a logit and t its target.
    """
    return kernels.dynamic_mask_loss(
        mask_features,
        mask_params,
        reference_points_px,
        clip_index,
        targets,
        mask_stride,
        target_index=target_index,
        alpha=focal_alpha,
        gamma=focal_gamma,
    )


def encode_frame_masks(logits: Tensor, frame_size: tuple[int, int]) -> RunLengths | None:
    """COCO run lengths of masks at the size of the frame.

    Args:
        logits: [T, h, w]; stretched over the whole frame. `logit > 0` says the same as
            `sigmoid > 0.5`.
        frame_size: (height, width).

    Returns: compressed text and number of pixels of each mask; None where there is no C compiler to
        build the encoder with.
    """
    return kernels.encode_masks(logits, frame_size)


def threshold_frame_masks(logits: Tensor, frame_size: tuple[int, int]) -> Tensor:
    """As `encode_frame_masks`, but the masks themselves: uint8 [T, width, height]."""
    return kernels.threshold_masks(logits, frame_size)
