"""Multi-scale deformable attention in plain PyTorch: the definition of correct, and readable.

Letters as in `__init__.py`. Any float dtype, any device, differentiable as often as torch can.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = Sequence[tuple[int, int]]
FAR = 1e4
"""In widths of a level: outside of any."""


def ms_deform_attn(
    value: Tensor, shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """`grid_sample` on each level, then the weighted sum (Deformable DETR, eq. 3)."""
    B, _, M, D = value.shape
    Q = sampling_locations.shape[1]
    # What is no number reads zero as what is far outside does, and has no gradient.
    is_placed = sampling_locations.abs() < FAR
    sampling_locations = sampling_locations.where(is_placed, FAR)
    grid = (2 * sampling_locations - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # [B*M, L, Q, P, 2]
    weights = attention_weights.permute(0, 2, 3, 1, 4).flatten(0, 1)  # [B*M, L, Q, P]
    compute = torch.promote_types(value.dtype, sampling_locations.dtype)
    output = value.new_zeros(B * M, D, Q, dtype=compute)
    for level, (tokens, (height, width)) in enumerate(
        zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
    ):
        feature = tokens.permute(0, 2, 3, 1).reshape(B * M, D, height, width).to(compute)
        sampled = F.grid_sample(
            feature,
            grid[:, level].to(compute),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )  # [B*M, D, Q, P]
        output = output + (sampled * weights[:, level, None].to(compute)).sum(-1)
    return output.view(B, M * D, Q).transpose(1, 2).contiguous().to(value.dtype)


def ms_deform_attn_fused(
    value: Tensor,
    shapes: Shapes,
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
    valid_shapes: Tensor | None = None,
) -> Tensor:
    """Zero what is padding, softmax the logits, place the samples, then as above."""
    B = value.shape[0]
    P = offsets.shape[4]
    offsets, logits, reference = (_per_image(x, B) for x in (offsets, logits, reference_points))
    reference = reference[:, :, None, :, None]  # [B, Q, 1, L, 1, 2 or 4]
    if reference.shape[-1] == 2:
        sizes = torch.tensor([[w, h] for h, w in shapes], dtype=offsets.dtype)
        locations = reference + offsets / sizes[:, None].to(offsets.device)
    else:
        locations = reference[..., :2] + offsets / P * reference[..., 2:] * 0.5
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    if valid_shapes is not None:
        value = value * inside_mask(_per_image(valid_shapes, B), shapes)[..., None, None]
    return ms_deform_attn(value, shapes, locations, weights)


def inside_mask(valid_shapes: Tensor, shapes: Shapes) -> Tensor:
    """[B, L, 2] heights and widths -> [B, S] bool, True in the top-left region of each level."""
    levels = []
    for level, (height, width) in enumerate(shapes):
        rows = torch.arange(height, device=valid_shapes.device) < valid_shapes[:, level, :1]
        columns = torch.arange(width, device=valid_shapes.device) < valid_shapes[:, level, 1:]
        levels.append((rows[:, :, None] & columns[:, None]).flatten(1))
    return torch.cat(levels, dim=1)


def _per_image(x: Tensor, B: int) -> Tensor:
    """Repeat what several images in a row share."""
    return x if x.shape[0] == B else x.repeat_interleave(B // x.shape[0], dim=0)
