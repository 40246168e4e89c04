"""Mask branch and dynamic mask head as the published code runs them, a frame at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seqformer.model.masks import MASK_CHANNELS, MaskBranch

from .attention import Shapes


def mask_levels(memory: Tensor, shapes: Shapes) -> list[Tensor]:
    """Views of the three finest levels of `memory` [B, T, S, C], coarsest first,
    [B, C, T, h, w] each."""
    levels = memory.split([h * w for h, w in shapes], dim=2)[:3]
    return [
        tokens.unflatten(2, shape).permute(0, 4, 1, 2, 3)
        for tokens, shape in zip(levels, shapes, strict=False)
    ][::-1]


def mask_features(branch: MaskBranch, coarse_to_fine: list[Tensor], frame: int) -> Tensor:
    """[B, 8, h, w] of one frame."""
    coarse, middle, fine = (level[:, :, frame] for level in coarse_to_fine)
    x = F.relu(branch.lay3(coarse))
    x = F.relu(branch.lay4(middle + F.interpolate(x, size=middle.shape[-2:])))
    x = F.relu(branch.dcn(fine + F.interpolate(x, size=fine.shape[-2:])))
    x = F.relu(branch.lay1(x))
    return F.relu(branch.lay2(x))


def masks_of_frames(
    branch: MaskBranch,
    memory: Tensor,
    shapes: Shapes,
    params: Tensor,
    points_px: Tensor,
    counts: list[int],
    stride: int,
) -> Tensor:
    """Mask features of every frame anew, and masks from them.

    Args:
        memory: [B, T, S, C].
        params: [N, G].
        points_px: [T, N, 2].
        counts: instances per clip; their sum is N.
        stride: pixels per cell of the mask features.

    Returns: [N, T, 2h, 2w].
    """
    coarse_to_fine = mask_levels(memory, shapes)
    frames = []
    for t in range(memory.shape[1]):
        features = mask_features(branch, coarse_to_fine, t)
        frames.append(dynamic_masks(features, params, points_px[t], counts, stride))
    return torch.stack(frames, dim=1)


def dynamic_masks(
    features: Tensor, params: Tensor, points_px: Tensor, counts: list[int], stride: int
) -> Tensor:
    """Masks of one frame, by grouped convolutions with one group per instance.

    Args:
        features: [B, 8, h, w].
        params: [N, G].
        points_px: [N, 2].
        counts: instances per clip; their sum is N.
        stride: pixels per cell of `features`.

    Returns: [N, 2h, 2w].
    """
    N, (h, w) = len(params), features.shape[-2:]
    channels = MASK_CHANNELS
    if N == 0:
        # The grouped convolution needs a group; an empty sum keeps the result in the graph.
        return features.new_zeros(0, 2 * h, 2 * w) + 0 * (features.sum() + params.sum())
    x, y = (torch.arange(n, device=features.device) * stride + stride // 2 for n in (w, h))
    row, column = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([column, row], dim=-1)  # [h, w, 2]
    relative = points_px[:, None, None] - centres
    relative = relative.permute(0, 3, 1, 2).flatten(2)  # [N, 2, h*w]
    repeated = torch.cat(
        [clip.flatten(1).repeat(n, 1, 1) for clip, n in zip(features, counts, strict=True)]
    )  # [N, 8, h*w]
    z = torch.cat([relative, repeated], dim=1).reshape(1, -1, h, w)
    w0, w1, w2, b0, b1, b2 = params.split([80, 64, 8, 8, 8, 1], dim=1)
    z = F.conv2d(z, w0.reshape(-1, channels + 2, 1, 1), b0.flatten(), groups=N).relu()
    z = F.conv2d(z, w1.reshape(-1, channels, 1, 1), b1.flatten(), groups=N).relu()
    z = F.conv2d(z, w2.reshape(-1, channels, 1, 1), b2.flatten(), groups=N)
    return _upsample(z.view(N, 1, h, w))[:, 0]


def _upsample(z: Tensor) -> Tensor:
    """[N, 1, h, w] -> [N, 1, 2h, 2w]: pad, resize with aligned corners, pad, crop."""
    h, w = z.shape[-2:]
    z = F.pad(z, (0, 1, 0, 1), mode="replicate")
    z = F.interpolate(z, size=(2 * h + 1, 2 * w + 1), mode="bilinear", align_corners=True)
    z = F.pad(z, (1, 0, 1, 0), mode="replicate")
    return z[..., : 2 * h, : 2 * w]
