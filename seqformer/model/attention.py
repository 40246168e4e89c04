"""The two attentions of the transformer: deformable over feature levels, and among queries."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .._kernels import kernels
from .autograd_state import is_autocast_to_bfloat16
from .cpu_attention import attention
from .linear import linear, split_of
from .memory_efficient import Linear, linears_of_sum


class MSDeformAttn(nn.Module):
    """Projections and sampling points around `kernels.ms_deform_attn` (Deformable DETR, eq. 3).

    The output projection belongs to the caller's module too, but is applied by it: the decoder has
    two of them after one sampling.
    """

    def __init__(self, dim: int, num_levels: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, samples * 2)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)
        self.output_proj_box = Linear(dim, dim)

    def reset_parameters(self) -> None:
        """Head m looks in direction 2 pi m / M, point p at p + 1 cells; even weights."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        grid = direction[:, None, None] * steps[None, None, :, None]  # [M, 1, P, 2]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(grid.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj, self.output_proj_box):
            nn.init.xavier_uniform_(layer.weight)
        # parity: the bias of the box stream's projection stays as a linear layer is drawn.
        for layer in (self.value_proj, self.output_proj):
            nn.init.zeros_(layer.bias)

    def project_value(self, tokens: Tensor) -> Tensor:
        """[..., S, C] -> [..., S, M, D]; padding is left to the sampling."""
        value = self.value_proj(tokens)
        return value.view(*value.shape[:-1], self.num_heads, -1)

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        reference: Tensor,
        value: Tensor,
        shapes: list[tuple[int, int]],
        valid_shapes: Tensor | None,
    ) -> Tensor:
        """Sample `value` around the references; before any output projection.

        Args:
            query: [B, F, Q, C] with F = T, or F = 1 where all frames share the query.
            position: added to the query, of a shape that broadcasts to its.
            reference: [B or 1, F, Q, L, 2] points or [B, F, Q, L, 4] boxes (cx, cy, w, h), shares
                of the padded level; F = T or 1.
            value: [B, T, S, M, D] from `project_value`.
            shapes: L pairs (h, w).
            valid_shapes: [B, L, 2] int32, the part of each level that is not padding; or None.

        Returns: [B, T, Q, C].
        """
        offsets, logits = self._samples(query, position)
        sampled = self.sample(
            value.flatten(0, 1),
            shapes,
            offsets.flatten(0, 1),
            logits.flatten(0, 1),
            reference.flatten(0, 1),
            valid_shapes,
        )  # [B * T, Q, C]
        return sampled.view(*value.shape[:2], *sampled.shape[1:])

    def sample(
        self,
        value: Tensor,
        shapes: list[tuple[int, int]],
        offsets: Tensor,
        logits: Tensor,
        reference: Tensor,
        valid_shapes: Tensor | None,
    ) -> Tensor:
        """`kernels.ms_deform_attn_fused`; an export puts a form here that other programs run."""
        return kernels.ms_deform_attn_fused(value, shapes, offsets, logits, reference, valid_shapes)

    def _samples(self, query: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets [B, F, Q, M, L, P, 2] and logits [B, F, Q, M, L, P], in the precision of their
        layers even under autocast, and without TF32: in bf16, an offset of 8 cells is up to 0.03
        cells off. Their gradients are products like all others: under autocast to bfloat16 on a
        CPU, where float32 ones take ten times as long, in that."""
        samples = (self.num_heads, self.num_levels, self.num_points)
        backward = torch.bfloat16 if is_autocast_to_bfloat16(query.device.type) else None
        with without_autocast(query.device.type):
            layers = [(m.weight, m.bias) for m in (self.sampling_offsets, self.attention_weights)]
            dtype = torch.promote_types(query.dtype, self.sampling_offsets.weight.dtype)
            offsets, logits = linears_of_sum(
                query.to(dtype), position.to(dtype), *layers, is_exact=True, backward=backward
            )
        return offsets.unflatten(-1, (*samples, 2)), logits.unflatten(-1, samples)


class QuerySelfAttention(nn.Module):
    """Multi-head attention among queries; positions are added to queries and keys, not values.

    Parameters are laid out as in `nn.MultiheadAttention`, as the checkpoints have them.

    Attributes:
        split_weights: at inference on some CPUs `in_proj_weight` in its two shares, as
            `SplitParameter`.
    """

    split_weights: tuple[Tensor, Tensor] | None = None

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """x: [n, Q, C]; position: [Q, C] or [n, Q, C]. Returns [n, Q, C]."""
        dim = x.shape[-1]
        weights = self.split_weights or self.in_proj_weight.split([2 * dim, dim])
        qk_weight, v_weight = weights
        qk_bias, v_bias = self.in_proj_bias.split([2 * dim, dim])
        (qk,) = linears_of_sum(x, position, (qk_weight, qk_bias))
        q, k = qk.chunk(2, dim=-1)
        is_split = split_of(x, v_weight) is not None
        v = (linear if is_split else F.linear)(x.to(qk.dtype), v_weight, v_bias)
        q, k, v = (rearrange(t, "n q (m d) -> n m q d", m=self.num_heads) for t in (q, k, v))
        out = attention(q, k, v, self.dropout if self.training else 0.0)
        return self.out_proj(rearrange(out, "n m q d -> n q (m d)"))


def without_autocast(device_type: str) -> AbstractContextManager[None]:
    """Inside, autocast is off. Where it is so anyway, a graph has nothing to record."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
