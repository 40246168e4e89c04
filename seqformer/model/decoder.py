"""Decoder: one instance query per object and clip, one box query per object and frame (paper 3.2).

The box stream attends to its own frame only; the instance stream collects what it found, pooled
over time by learned weights. Boxes are refined from layer to layer (Deformable DETR, A.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from .attention import MSDeformAttn, QuerySelfAttention
from .blocks import MLP, FeedForward


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) with x clamped to [0, 1] and both parts to at least `eps`."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


@dataclass
class DecoderStates:
    """Per layer, in lists of length D.

    Attributes:
        instance: [B, Q, C] instance queries after the layer.
        box: [B, T, Q, C] box queries after the layer.
        boxes: [B, T, Q, 4] predicted boxes, (cx, cy, w, h) in 0..1 of the unpadded frame.
        references: [B, 1 or T, Q, 2 or 4] what entered the layer.
    """

    instance: list[Tensor]
    box: list[Tensor]
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
        self.time_attention_weights = nn.Linear(dim, 1)

    def forward(
        self,
        instance: Tensor,
        box: Tensor,
        query_position: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: list[tuple[int, int]],
        padding: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            instance: [B, Q, C].
            box: [B, T, Q, C], or [B, 1, Q, C] before the first layer, where all frames share it.
            query_position: [Q, C].
            reference: [B, 1 or T, Q, L, 2 or 4], shares of the padded levels.
            memory: [B, T, S, C] from the encoder.
            shapes: L pairs (h, w).
            padding: [B, T, S] bool or None.

        Returns: instance [B, Q, C] and box [B, T, Q, C].
        """
        attended = self.self_attn(instance, query_position)
        instance = self.norm2(instance + self._drop(attended))
        attended = self.self_attn_box(box.flatten(0, 1), query_position).view_as(box)
        box = self.norm2_box(box + self._drop(attended))

        # parity: the instance stream does not steer the sampling.
        value = self.cross_attn.project_value(memory, padding)
        sampled = self.cross_attn(box + query_position, reference, value, shapes)  # [B, T, Q, C]
        box = self.norm1_box(box + self._drop(self.cross_attn.output_proj_box(sampled)))
        box = self.ffn_box(box)

        # The time weights sum to one, so projecting the pooled samples equals pooling the
        # projected ones, at a T-th of the work.
        time_weights = self.time_attention_weights(box).softmax(dim=1)  # [B, T, Q, 1]
        pooled = self.cross_attn.output_proj((time_weights * sampled).sum(dim=1))
        instance = self.norm1(instance + self._drop(pooled))
        return self.ffn(instance), box

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Decoder(nn.Module):
    """A stack of `DecoderLayer` with one box head per layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.bbox_embed = nn.ModuleList(MLP(dim, dim, 4, 3) for _ in self.layers)

    def forward(
        self,
        instance: Tensor,
        box: Tensor,
        query_position: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: list[tuple[int, int]],
        padding: Tensor | None,
        valid_ratios: Tensor,
    ) -> DecoderStates:
        """Run all layers.

        Args:
            instance: [B, Q, C]; box: [B, 1, Q, C]; query_position: [Q, C].
            reference: [B, 1, Q, 2], (x, y) in 0..1 of the unpadded frame.
            memory: [B, T, S, C]; shapes: L pairs (h, w); padding: [B, T, S] bool or None.
            valid_ratios: [B, L, 2].
        """
        states = DecoderStates([], [], [], [])
        for layer, box_head in zip(self.layers, self.bbox_embed, strict=True):
            ratios = valid_ratios[:, None, None]  # [B, 1, 1, L, 2]
            if reference.shape[-1] == 4:
                ratios = ratios.repeat(1, 1, 1, 1, 2)
            level_reference = reference[:, :, :, None] * ratios
            instance, box = layer(
                instance, box, query_position, level_reference, memory, shapes, padding
            )
            delta = box_head(box)
            prior = inverse_sigmoid(reference)
            if reference.shape[-1] == 2:
                prior = F.pad(prior, (0, 2))
            boxes = (delta + prior).sigmoid()
            states.instance.append(instance)
            states.box.append(box)
            states.boxes.append(boxes)
            states.references.append(reference)
            reference = boxes.detach()
        return states
