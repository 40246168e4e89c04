"""The dynamic mask head in plain PyTorch: the definition. Arguments are checked already.

Contract and letters: `__init__.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .spec import MaskHead


def dynamic_mask_head(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    head: MaskHead,
) -> Tensor:
    """[N, T, F*h, F*w] in the dtype of the features; computed in float32, or float64 if given."""
    N, T = reference_points.shape[:2]
    h, w = mask_features.shape[-2:]
    tensors = (mask_features, mask_params, reference_points)
    compute = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    features, params, references = (t.to(compute) for t in tensors)

    # rel = ref - (stride*col + stride//2, stride*row + stride//2), in input pixels, not normalised
    def centres(n: int) -> Tensor:
        cells = torch.arange(n, device=references.device, dtype=compute)
        return cells * head.stride + head.stride // 2

    inputs = features.transpose(1, 2)[clip_index]  # [N, C, T, h, w]
    if head.relative_coordinates:
        rel_x = references[:, :, 0, None, None] - centres(w)  # [N, T, 1, w]
        rel_y = references[:, :, 1, None, None] - centres(h)[:, None]  # [N, T, h, 1]
        relative = torch.stack([rel.expand(N, T, h, w) for rel in (rel_x, rel_y)], dim=1)
        inputs = torch.cat([relative, inputs], dim=1)
    x = inputs.flatten(2)  # [N, I, T*h*w]
    for weight, bias, outputs, width in head.layers():
        x = params[:, weight].view(N, outputs, width) @ x + params[:, bias, None]
        x = x.relu() if outputs > 1 else x
    return aligned_upsample(x.view(N, T, h, w), head.upsample).to(mask_features.dtype)


def aligned_upsample(z: Tensor, factor: int) -> Tensor:
    """Bilinear upsampling of the last two axes, `out[o] = z at (o - factor // 2) / factor`.

    Positions outside are moved to the first or last cell. These are the values of AdelaiDet's
    aligned_bilinear (replicate pad, resize with aligned corners, pad, crop).
    """
    for dim in (-1, -2) if factor > 1 else ():
        size = z.shape[dim]
        position = (torch.arange(factor * size, device=z.device) - factor // 2) / factor
        position = position.clamp(0, size - 1)
        low = position.floor().long()
        weight = (position - low).to(z.dtype)
        weight = weight if dim == -1 else weight[:, None]
        high = (low + 1).clamp(max=size - 1)
        z = z.index_select(dim, low) * (1 - weight) + z.index_select(dim, high) * weight
    return z


def dynamic_mask_loss(
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
    """[N, 4]: sums of the focal loss, p * t, p and t, over the pixels of each instance."""
    logits = dynamic_mask_head(mask_features, mask_params, reference_points, clip_index, head)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(2)
    height, width = (head.upsample * n for n in mask_features.shape[-2:])
    every = slice(target_stride // 2, None, target_stride)
    target = targets[:, :, every, every] != 0
    target = F.pad(target, (0, width - target.shape[3], 0, height - target.shape[2]))
    target = target[target_index].flatten(2).to(logits.dtype)
    prob = logits.sigmoid()
    cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    miss = prob + target - 2 * prob * target  # 1 - p_t
    focal = ((1 - alpha) + (2 * alpha - 1) * target) * cost * miss**gamma
    return torch.stack([x.sum((1, 2)) for x in (focal, prob * target, prob, target)], dim=1)
