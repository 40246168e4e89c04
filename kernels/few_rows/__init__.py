"""Blocks of a transformer on few rows, in one call each, for inference on a CPU.

A decoder of twenty queries multiplies for less time than forty calls of torch a layer take. Here a
block with its sums, ReLU, residual and norm is one call into C. Letters: R rows (all axes but the
last), C channels in and O out, Q rows of an image, n images.

Every function gives what its namesake in `reference.py` gives, up to rounding; without gradient.
`fits` says whether the C code answers, and callers have their own way where it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL

import torch
from torch import Tensor

from ..tracing import is_watched
from . import cpu
from .cpu import Layer as Layer
from .cpu import Norm as Norm

MAX_ROWS = 64
"""With more, the routines of torch take less time."""

why_not_available = cpu.why_not_available


def fits(x: Tensor, *parameters: Tensor | None) -> bool:
    """Whether the C code answers for rows [..., C] and weights, biases and norms: few rows, all of
    it float32 on a CPU, the parameters contiguous, in inference mode, and nobody watches."""
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        return False
    if x.device.type != "cpu" or x.dtype != torch.float32 or is_watched(x):
        return False
    if not 0 < x.numel() <= MAX_ROWS * x.shape[-1]:
        return False
    for parameter in parameters:
        if parameter is None or parameter.dtype != x.dtype or not parameter.is_contiguous():
            return False
        if type(parameter).__torch_dispatch__ is not Tensor.__torch_dispatch__:  # a shard, say
            return False
    return cpu.code() is not None


def mlp(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Linear layers with ReLU between them.

    Args:
        x: [..., C], one that `fits`, with all that belongs to it; so too below.
        layers: weights [O, C] and biases [O].

    Returns: [..., O] of the last.
    Raises: RuntimeError where there is no C code.
    """
    return cpu.mlp(_code(), x.contiguous(), layers)


def linears_of_sum(x: Tensor, position: Tensor, layers: Sequence[Layer]) -> list[Tensor]:
    """Every layer of `x + position`.

    Args:
        x: [..., Q, C]; position: [Q, C].

    Returns: [..., O] of each.
    """
    return cpu.linears_of_sum(_code(), x.contiguous(), position.contiguous(), layers)


def linear_norm(x: Tensor, residual: Tensor, layer: Layer, norm: Norm) -> Tensor:
    """`norm(residual + layer(x))`: [..., C] and [..., O] -> [..., O]."""
    return cpu.linear_norm(_code(), x.contiguous(), residual.contiguous(), layer, norm)


def feed_forward(x: Tensor, first: Layer, second: Layer, norm: Norm) -> Tensor:
    """`norm(x + second(relu(first(x))))`: [..., C] -> [..., C]."""
    return cpu.feed_forward(_code(), x.contiguous(), first, second, norm)


def attend(
    x: Tensor, position: Tensor, inner: Layer, projection: Layer, norm: Norm, num_heads: int
) -> Tensor:
    """`norm(x + projection(attention))` of the rows of each image among themselves.

    Args:
        x: [n, Q, C].
        position: [Q, C], added to queries and keys.
        inner: [3C, C] and [3C], for queries, keys and values, as `nn.MultiheadAttention` has them.

    Returns: [n, Q, C].
    """
    maps = (x.contiguous(), position.contiguous())
    return cpu.attend(_code(), *maps, inner, projection, norm, num_heads)


def _code() -> CDLL:
    compiled = cpu.code()
    if compiled is None:
        raise RuntimeError(f"blocks on few rows: {cpu.why_not_available()}")
    return compiled
