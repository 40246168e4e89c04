"""The blocks in plain PyTorch: the definition. Arguments as in `__init__.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .cpu import Layer, Norm


def mlp(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Layers with ReLU between them."""
    for layer in layers[:-1]:
        x = F.linear(x, *layer).relu()
    return F.linear(x, *layers[-1])


def linears_of_sum(x: Tensor, position: Tensor, layers: Sequence[Layer]) -> list[Tensor]:
    """Every layer of one sum."""
    return [F.linear(x + position, *layer) for layer in layers]


def linear_norm(x: Tensor, residual: Tensor, layer: Layer, norm: Norm) -> Tensor:
    """`norm(residual + layer(x))`."""
    return _norm(residual + F.linear(x, *layer), norm)


def feed_forward(x: Tensor, first: Layer, second: Layer, norm: Norm) -> Tensor:
    """`norm(x + second(relu(first(x))))`."""
    return _norm(x + F.linear(F.linear(x, *first).relu(), *second), norm)


def attend(
    x: Tensor, position: Tensor, inner: Layer, projection: Layer, norm: Norm, num_heads: int
) -> Tensor:
    """`norm(x + projection(attention))`."""
    C = x.shape[-1]
    weights, biases = inner[0].split([2 * C, C]), inner[1].split([2 * C, C])
    q, k = F.linear(x + position, weights[0], biases[0]).chunk(2, dim=-1)
    v = F.linear(x, weights[1], biases[1])
    q, k, v = (y.unflatten(-1, (num_heads, -1)).transpose(1, 2) for y in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return linear_norm(mixed, x, projection, norm)


def _norm(x: Tensor, norm: Norm) -> Tensor:
    gamma, beta, eps = norm
    return F.layer_norm(x, x.shape[-1:], gamma, beta, eps)
