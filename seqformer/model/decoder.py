"""Decoder: one instance query per object and clip, one box query per object and frame (paper 3.2).

The box stream attends to its own frame only, through all layers; the instance stream collects what
it found, pooled over time by learned weights, and tells it nothing back. So the two run one after
the other: the box stream over frames in any chunks, then the instance stream once. Boxes are
refined from layer to layer (Deformable DETR, A.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._kernels import kernels
from ..config import ModelConfig
from .attention import MSDeformAttn, QuerySelfAttention
from .blocks import MLP, FeedForward, cast_like, norm_of, pair_of
from .full_float32 import FullLinear


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) with x clamped to [0, 1] and both parts to at least `eps`."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


@dataclass
class BoxStates:
    """What the box stream finds in T frames, each by itself; per layer, in lists of length D.

    Attributes:
        sampled: [B, T, Q, C] what cross-attention read, before any output projection.
        time_logits: [B, T, Q, 1] weight of the frame in the temporal softmax.
        boxes: [B, T, Q, 4] predicted boxes, (cx, cy, w, h) in 0..1 of the unpadded frame.
        references: [B, 1 or T, Q, 2 or 4] what entered the layer.
    """

    sampled: list[Tensor]
    time_logits: list[Tensor]
    boxes: list[Tensor]
    references: list[Tensor]


class DecoderLayer(nn.Module):
    """Self-attention in both streams, sampling by the box stream, pooling over time."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, heads, dropout = config.hidden_dim, config.num_heads, config.dropout
        self.dropout = dropout
        self.cross_attn = MSDeformAttn(dim, config.num_levels, heads, config.num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.norm1_box = nn.LayerNorm(dim)
        self.self_attn = QuerySelfAttention(dim, heads, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.self_attn_box = QuerySelfAttention(dim, heads, dropout)
        self.norm2_box = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, config.ffn_dim, dropout)
        self.ffn_box = FeedForward(dim, config.ffn_dim, dropout)
        self.time_attention_weights = FullLinear(dim, 1)

    def box_stream(
        self,
        box: Tensor,
        query_position: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: list[tuple[int, int]],
        valid_shapes: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The box queries of every frame by themselves; the instance stream does not steer them.

        Args:
            box: [B, T, Q, C], or [B, 1, Q, C] before the first layer, where all frames share it.
            query_position: [Q, C].
            reference: [B, 1 or T, Q, L, 2 or 4], shares of the padded levels.
            memory: [B, T, S, C] from the encoder.
            shapes: L pairs (h, w).
            valid_shapes: [B, L, 2] int32, the part of each level that is not padding; or None.

        Returns: box [B, T, Q, C], sampled [B, T, Q, C] and time logits [B, T, Q, 1].
        """
        frames = cast_like(self.norm2_box, box).flatten(0, 1)
        own = self._attend(self.self_attn_box, self.norm2_box, frames, query_position)
        box = own.view_as(box)

        value = self.cross_attn.project_value(memory)
        sampled = self.cross_attn(
            box, query_position, reference, value, shapes, valid_shapes
        )  # [B, T, Q, C]
        box = self._project(self.cross_attn.output_proj_box, self.norm1_box, sampled, box)
        box = self.ffn_box(box)
        return (
            box,
            sampled,
            self.time_attention_weights(cast_like(self.time_attention_weights, box)),
        )

    def instance_stream(self, instance: Tensor, query_position: Tensor, pooled: Tensor) -> Tensor:
        """The instance queries, given what the box queries of all frames found.

        Args:
            instance: [B, Q, C].
            query_position: [Q, C].
            pooled: [B, Q, C], `sampled` under the temporal softmax.

        Returns: [B, Q, C].
        """
        instance = self._attend(self.self_attn, self.norm2, instance, query_position)
        # The time weights sum to one, so projecting the pooled samples equals pooling the
        # projected ones, at a T-th of the work. The sums are float32 even in a half model.
        pooled = cast_like(self.cross_attn.output_proj, pooled)
        instance = self._project(self.cross_attn.output_proj, self.norm1, pooled, instance)
        return self.ffn(instance)

    def _attend(
        self, attention: QuerySelfAttention, norm: nn.LayerNorm, x: Tensor, position: Tensor
    ) -> Tensor:
        """`norm(x + attention(x))` of queries [n, Q, C] with positions [Q, C]."""
        inner = (attention.in_proj_weight, attention.in_proj_bias)
        outer, own_norm = pair_of(attention.out_proj), norm_of(norm)
        if not self.training and kernels.few_rows.fits(x, *inner, *outer, *own_norm[:2]):
            blocks = (inner, outer, own_norm, attention.num_heads)
            return kernels.few_rows.attend(x, position, *blocks)
        return norm(x + self._drop(attention(x, position)))

    def _project(self, layer: nn.Linear, norm: nn.LayerNorm, x: Tensor, residual: Tensor) -> Tensor:
        """`norm(residual + layer(x))`, all [..., C]; the residual may lack axes of `x`."""
        pair, own_norm = pair_of(layer), norm_of(norm)
        is_whole = not self.training and residual.shape == x.shape and residual.dtype == x.dtype
        if is_whole and kernels.few_rows.fits(x, *pair, *own_norm[:2]):
            return kernels.few_rows.linear_norm(x, residual, pair, own_norm)
        return norm(residual + self._drop(layer(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Decoder(nn.Module):
    """A stack of `DecoderLayer` with one box head per layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.bbox_embed = nn.ModuleList(MLP(dim, dim, 4, 3) for _ in self.layers)

    def box_stream(
        self,
        box: Tensor,
        query_position: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: list[tuple[int, int]],
        valid_shapes: Tensor | None,
        valid_ratios: Tensor,
    ) -> BoxStates:
        """All layers of the box stream. A frame's result does not depend on the other frames.

        Args:
            box: [B, 1, Q, C]; query_position: [Q, C].
            reference: [B, 1, Q, 2], (x, y) in 0..1 of the unpadded frame.
            memory: [B, T, S, C]; shapes: L pairs (h, w).
            valid_shapes: [B, L, 2] int32 or None.
            valid_ratios: [B, L, 2].
        """
        states = BoxStates([], [], [], [])
        for layer, box_head in zip(self.layers, self.bbox_embed, strict=True):
            assert isinstance(layer, DecoderLayer) and isinstance(box_head, MLP)
            ratios = valid_ratios[:, None, None]  # [B, 1, 1, L, 2]
            if reference.shape[-1] == 4:
                ratios = ratios.repeat(1, 1, 1, 1, 2)
            level_reference = reference[:, :, :, None] * ratios
            box, sampled, time_logits = layer.box_stream(
                box, query_position, level_reference, memory, shapes, valid_shapes
            )
            delta = box_head(cast_like(box_head.first, box))
            prior = inverse_sigmoid(reference)
            if reference.shape[-1] == 2:
                prior = F.pad(prior, (0, 2))
            boxes = (delta + prior).sigmoid()
            states.sampled.append(sampled)
            states.time_logits.append(time_logits)
            states.boxes.append(boxes)
            states.references.append(reference)
            reference = boxes.detach()
        return states

    def instance_stream(
        self, instance: Tensor, query_position: Tensor, pooled: Tensor
    ) -> list[Tensor]:
        """All layers of the instance stream.

        Args:
            instance: [B, Q, C]; query_position: [Q, C].
            pooled: [D, B, Q, C] from the `TemporalPool` of all frames.

        Returns: D tensors [B, Q, C], the instance queries after each layer.
        """
        states = []
        for layer, pooled_layer in zip(self.layers, pooled, strict=True):
            assert isinstance(layer, DecoderLayer)
            instance = layer.instance_stream(instance, query_position, pooled_layer)
            states.append(instance)
        return states
