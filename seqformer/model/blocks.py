"""Small blocks shared by encoder, decoder and heads."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from .._kernels import kernels
from .full_float32 import FullLinear
from .memory_efficient import feed_forward


def cast_like(layer: nn.Module, x: Tensor) -> Tensor:
    """`x` in the precision of a layer's weight: at inference another one than that of what comes
    before, where some layers are half (`inference_copy`). One on integers takes `x` as it is."""
    weight = getattr(layer, "weight", None)
    return x.to(weight.dtype) if isinstance(weight, Tensor) else x


def pair_of(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer."""
    assert isinstance(layer, nn.Linear)
    return layer.weight, layer.bias


def norm_of(norm: nn.LayerNorm) -> tuple[Tensor, Tensor, float]:
    """Weight, bias and eps."""
    return norm.weight, norm.bias, norm.eps


class FeedForward(nn.Module):
    """linear1, ReLU, linear2, residual, LayerNorm (post-norm)."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        if self.dropout and self.training:
            hidden = F.dropout(self.linear1(x).relu(), self.dropout)
            return self.norm(x + F.dropout(self.linear2(hidden), self.dropout))
        layers, norm = (pair_of(self.linear1), pair_of(self.linear2)), norm_of(self.norm)
        if kernels.few_rows.fits(x, *layers[0], *layers[1], *norm[:2]):
            return kernels.few_rows.feed_forward(x, *layers, norm)
        return self.norm(x + feed_forward(cast_like(self.linear1, x), self.linear1, self.linear2))


class MLP(nn.Module):
    """`num_layers` linear layers with ReLU between them, in full float32: it makes boxes and mask
    parameters."""

    def __init__(self, inputs: int, hidden: int, outputs: int, num_layers: int) -> None:
        super().__init__()
        widths = [inputs] + [hidden] * (num_layers - 1) + [outputs]
        self.layers = nn.ModuleList(FullLinear(a, b) for a, b in pairwise(widths))

    @property
    def first(self) -> FullLinear:
        """The layer that takes the input."""
        layer = self.layers[0]
        assert isinstance(layer, FullLinear)
        return layer

    @property
    def last(self) -> FullLinear:
        """The layer that makes the output."""
        layer = self.layers[-1]
        assert isinstance(layer, FullLinear)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        layers = [pair_of(layer) for layer in self.layers]
        if kernels.few_rows.fits(x, *(tensor for layer in layers for tensor in layer)):
            return kernels.few_rows.mlp(x, layers)
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)
