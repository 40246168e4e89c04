"""Deformable encoder: every frame on its own, all frames of all clips in one batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from .attention import MSDeformAttn
from .blocks import FeedForward, cast_like


class EncoderLayer(nn.Module):
    """Deformable self-attention over the levels of a frame, then a feed-forward block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = MSDeformAttn(dim, config.num_levels, config.num_heads, config.num_points)
        # parity: the published checkpoints hold a second output projection here that takes no part
        # in the forward pass; it is kept, and never trained.
        self.self_attn.output_proj_box.requires_grad_(False)
        self.norm1 = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, config.ffn_dim, config.dropout)
        self.dropout = config.dropout

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        reference: Tensor,
        shapes: list[tuple[int, int]],
        valid_shapes: Tensor | None,
    ) -> Tensor:
        """tokens: [B, T, S, C]; position: [B, 1, S, C]; reference: [B, 1, S, L, 2];
        valid_shapes: [B, L, 2] int32 or None. Returns [B, T, S, C]."""
        value = self.self_attn.project_value(cast_like(self.self_attn.value_proj, tokens))
        sampled = self.self_attn(tokens, position, reference, value, shapes, valid_shapes)
        attended = self.self_attn.output_proj(sampled)
        tokens = self.norm1(tokens + F.dropout(attended, self.dropout, self.training))
        del value, sampled, attended  # the feed-forward block is the memory peak
        return self.ffn(tokens)


class Encoder(nn.Module):
    """A stack of `EncoderLayer`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        reference: Tensor,
        shapes: list[tuple[int, int]],
        valid_shapes: Tensor | None,
    ) -> Tensor:
        """Arguments and result as in `EncoderLayer.forward`."""
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            tokens = cast_like(layer.norm1, tokens)
            tokens = layer(tokens, position, reference, shapes, valid_shapes)
        return tokens
