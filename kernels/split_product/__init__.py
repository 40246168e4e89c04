"""Float32 convolutions and linear layers out of bfloat16 products, on a CPU with AMX.

A float32 number is the exact sum of three bfloat16 ones, so a product of two is a sum of bfloat16
products, of which six are enough for float32's own rounding. AMX does those six in less time than
AVX-512 does the one. The result is as far from the exact one as any float32 routine's, but not its
bits. Numbers must be finite and, in size, between 1e-30 and 3e38 or zero: smaller ones lose digits,
and infinity becomes NaN.

Weights are split and laid out once (`split_weight`); activations, as they are read. Letters: n
images of h x w pixels, C channels in and O out, k x k weights; H x W pixels of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..tracing import is_watched
from . import cpu, op

MAX_SIDE = 7
"""Of the weights of a convolution."""


@dataclass(frozen=True)
class SplitWeight:
    """Weights of a convolution in three parts.

    Attributes:
        parts: [ceil(O / 32), C / 32, k, k, 3, 2, 16, 16, 2] bfloat16: blocks of outputs and inputs,
            part, half of the block's outputs, pair of inputs, output, input of the pair.
        outputs: O.
    """

    parts: Tensor
    outputs: int


why_not_available = cpu.why_not_available


def fits(weight: Tensor) -> bool:
    """Whether weights [O, C] or [O, C, k, k] can be split: float32, square, C a multiple of 32."""
    is_square = weight.dim() == 2 or (
        weight.dim() == 4 and weight.shape[2] == weight.shape[3] <= MAX_SIDE
    )
    return (
        is_square and weight.dtype == torch.float32 and weight.shape[1] % 32 == 0 < weight.numel()
    )


def split_weight(weight: Tensor) -> SplitWeight:
    """Split weights [O, C] or [O, C, k, k] once, for `conv2d` or `linear`.

    Raises: ValueError when they do not fit.
    """
    if not fits(weight):
        raise ValueError(
            f"weights must be float32 [O, C] or [O, C, k, k] with C a multiple of 32, got "
            f"{weight.dtype} {list(weight.shape)}"
        )
    square = weight.detach() if weight.dim() == 4 else weight.detach()[:, :, None, None]
    return SplitWeight(cpu.split(square), len(weight))


def conv2d(
    x: Tensor,
    weight: SplitWeight,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    relu: bool = False,
    add_to: Tensor | None = None,
) -> Tensor:
    """`F.conv2d(x, weight, bias, stride, padding)`, with ReLU and a sum, without gradient.

    Args:
        x: [n, C, h, w] float32, best with channels innermost.
        bias: [O] float32.
        relu: clamp the result below at 0.
        add_to: [n, O, H, W] with channels innermost: added before the ReLU, and overwritten by the
            result.

    Returns: [n, O, H, W], channels innermost.
    Raises: ValueError when shapes or types do not fit, RuntimeError where it is not available.
    """
    _check(x, weight, bias)
    if is_watched(x, weight.parts, bias, add_to):
        geometry = (weight.outputs, stride, padding, relu)
        result = op.forward(x, weight.parts, bias, add_to, *geometry)
        return result if add_to is None else add_to.copy_(result)
    return cpu.forward(
        x, weight.parts, bias, add_to, weight.outputs, stride, padding, relu, is_in_place=True
    )


def linear(
    x: Tensor, weight: SplitWeight, bias: Tensor | None = None, relu: bool = False
) -> Tensor:
    """`F.linear(x, weight, bias)`, with `relu` its ReLU, without gradient.

    Args:
        x: [..., C] float32.
        bias: [O] float32.

    Returns: [..., O].
    Raises: as `conv2d`.
    """
    rows = x.reshape(-1, x.shape[-1], 1, 1)
    return conv2d(rows, weight, bias, relu=relu).view(*x.shape[:-1], weight.outputs)


def _check(x: Tensor, weight: SplitWeight, bias: Tensor | None) -> None:
    channels = 32 * weight.parts.shape[1]
    if x.dim() != 4 or x.shape[1] != channels or x.dtype != torch.float32:
        raise ValueError(f"x must be float32 [n, {channels}, h, w], got {x.dtype} {list(x.shape)}")
    if bias is not None and (list(bias.shape) != [weight.outputs] or bias.dtype != torch.float32):
        raise ValueError(
            f"bias must be float32 [{weight.outputs}], got {bias.dtype} {list(bias.shape)}"
        )
