"""The dynamic mask head in plain PyTorch: the definition. Arguments are checked already.

Contract and letters: `__init__.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .inputs import MaskHeadConfig, MaskHeadInputs


def dynamic_mask_head(inputs: MaskHeadInputs, head: MaskHeadConfig) -> Tensor:
    """[N, T, F*h, F*w] in the dtype of the features; computed in float32, or float64 if given."""
    N, T = inputs.references.shape[:2]
    h, w = inputs.features.shape[-2:]
    compute = inputs.compute_dtype
    features, params, references = (t.to(compute) for t in inputs[:3])

    # rel = ref - (stride*col + stride//2, stride*row + stride//2), in input pixels, not normalised
    def centres(n: int) -> Tensor:
        cells = torch.arange(n, device=references.device, dtype=compute)
        return cells * head.stride + head.stride // 2

    x = features.transpose(1, 2)[inputs.clip_index]  # [N, C, T, h, w]
    if head.relative_coordinates:
        rel_x = references[:, :, 0, None, None] - centres(w)  # [N, T, 1, w]
        rel_y = references[:, :, 1, None, None] - centres(h)[:, None]  # [N, T, h, 1]
        relative = torch.stack([rel.expand(N, T, h, w) for rel in (rel_x, rel_y)], dim=1)
        x = torch.cat([relative, x], dim=1)
    x = x.flatten(2)  # [N, I, T*h*w]
    for weight, bias, outputs, width in head.layers():
        x = params[:, weight].view(N, outputs, width) @ x + params[:, bias, None]
        x = x.relu() if outputs > 1 else x
    return aligned_upsample(x.view(N, T, h, w), head.upsample).to(inputs.features.dtype)


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
