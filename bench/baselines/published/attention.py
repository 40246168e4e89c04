"""Attention as the published code computes it: frame by frame, level by level."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seqformer.model.attention import MSDeformAttn, QuerySelfAttention

from .linear import linear

Shapes = list[tuple[int, int]]


def masked_value(attention: MSDeformAttn, tokens: Tensor, padding: Tensor) -> Tensor:
    """[B, T, S, C] -> [B, T, S, M, D], zero where `padding` [B, T, S]."""
    value = linear(attention.value_proj, tokens).masked_fill(padding[..., None], 0.0)
    return value.unflatten(-1, (attention.num_heads, -1))


def sample_frames(
    attention: MSDeformAttn, query: Tensor, reference: Tensor, value: Tensor, shapes: Shapes
) -> Tensor:
    """Deformable attention, frame by frame; before any output projection.

    Args:
        attention: its linear layers see all frames at once.
        query: [B, T, Q, C], or [B, Q, C] where all frames share it.
        reference: [B, T, Q, L, 2 or 4], or [B, Q, L, 2] where all frames share it.
        value: [B, T, S, M, D].
        shapes: L pairs (h, w).

    Returns: [B, T, Q, C].
    """
    T = value.shape[1]
    M, L, P = attention.num_heads, attention.num_levels, attention.num_points
    offsets = attention.sampling_offsets(query).unflatten(-1, (M, L, P, 2))
    weights = attention.attention_weights(query).unflatten(-1, (M, L * P)).softmax(-1)
    weights = weights.unflatten(-1, (L, P))
    sizes = torch.tensor([[w, h] for h, w in shapes], dtype=value.dtype, device=value.device)

    def of_frame(tensor: Tensor, t: int, shared_dims: int) -> Tensor:
        return tensor if tensor.dim() == shared_dims else tensor[:, t].contiguous()

    values = [value[:, t].contiguous() for t in range(T)]
    frames = []
    for t in range(T):
        point = of_frame(reference, t, 4)[:, :, None, :, None]  # [B, Q, 1, L, 1, 2 or 4]
        offset = of_frame(offsets, t, 6)
        if point.shape[-1] == 2:
            locations = point + offset / sizes[:, None]
        else:
            locations = point[..., :2] + offset / P * point[..., 2:] * 0.5
        frames.append(sample_frame(values[t], shapes, locations, of_frame(weights, t, 5)))
    return torch.stack(frames, dim=1)


def sample_frame(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """value [B, S, M, D], locations [B, Q, M, L, P, 2], weights [B, Q, M, L, P] -> [B, Q, M*D]."""
    B, _, M, D = value.shape
    Q = locations.shape[1]
    grids = 2 * locations - 1
    samples = []
    for level, (tokens, (h, w)) in enumerate(
        zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
    ):
        feature = tokens.flatten(2).transpose(1, 2).reshape(B * M, D, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # [B*M, Q, P, 2]
        samples.append(F.grid_sample(feature, grid, align_corners=False))
    stacked = torch.stack(samples, dim=-2).flatten(-2)  # [B*M, D, Q, L*P]
    weights = weights.transpose(1, 2).reshape(B * M, 1, Q, -1)
    blended = (stacked * weights).sum(-1).view(B, M * D, Q)
    return blended.transpose(1, 2).contiguous()


def self_attention(attention: QuerySelfAttention, x: Tensor, position: Tensor) -> Tensor:
    """[B, Q, C], as `nn.MultiheadAttention` does it when asked for the attention weights too."""
    query = (x + position).transpose(0, 1)
    attended, _ = F.multi_head_attention_forward(
        query,
        query,
        x.transpose(0, 1),
        embed_dim_to_check=x.shape[-1],
        num_heads=attention.num_heads,
        in_proj_weight=attention.in_proj_weight,
        in_proj_bias=attention.in_proj_bias,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=attention.out_proj.weight,
        out_proj_bias=attention.out_proj.bias,
        need_weights=True,
    )
    return attended.transpose(0, 1)
