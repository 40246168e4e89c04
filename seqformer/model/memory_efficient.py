"""Steps of the model whose backward pass needs less memory than autograd would keep.

Autograd keeps every operator's inputs. What follows from other kept tensors by one cheap pass is
formed again here instead: the sum of tokens and their position code, a convolution's weight times
the scale of its frozen batch norm. Gradients that nobody else sees are changed in place. Results
and gradients are those of the plain formulas, to the bit or up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .._kernels import kernels
from .autograd_state import is_autocast_to_bfloat16, is_recorded
from .full_float32 import exact_linear, may_round
from .graph_convolution import GraphConv2d, convolution
from .linear import linear

Gradients = tuple[Tensor | None, ...]
Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Stride, padding and dilation of a convolution."""


def linears_of_sum(
    x: Tensor,
    position: Tensor,
    *layers: tuple[Tensor, Tensor],
    is_exact: bool = False,
    backward: torch.dtype | None = None,
) -> list[Tensor]:
    """`F.linear(x + position, weight, bias)` for every (weight, bias); keeps `x`, not the sum.

    Args:
        x: [..., C].
        position: [..., C], broadcast to `x`.
        layers: weights [O, C] and biases [O].
        is_exact: in full float32, whatever TF32 may round.
        backward: in which the gradients of `x` and weights are multiplied; None, and where TF32
            would round, for that of `x`.

    Returns: a tensor [..., O] per layer.
    """
    flat = as_autocast(x.device.type, *(tensor for pair in layers for tensor in pair))
    is_exact = is_exact and may_round(flat[0])
    backward = None if is_exact else backward
    if is_recorded(x, position, *flat):
        return list(_LinearsOfSum.apply(is_exact, backward, x, position.expand_as(x), *flat))
    return _linears_of_sum(is_exact, x, position, *flat)


def _linears_of_sum(is_exact: bool, x: Tensor, position: Tensor, *flat: Tensor) -> list[Tensor]:
    weights, biases = flat[::2], flat[1::2]
    if position.dim() == 2 and position.dtype == x.dtype and kernels.few_rows.fits(x, *flat):
        return kernels.few_rows.linears_of_sum(x, position, list(zip(weights, biases, strict=True)))
    multiply = exact_linear if is_exact else linear
    total = (x + position).to(weights[0].dtype)
    return [multiply(total, w, b) for w, b in zip(weights, biases, strict=True)]


class _LinearsOfSum(Function):
    @staticmethod
    def forward(
        ctx: Any,
        is_exact: bool,
        backward: torch.dtype | None,
        x: Tensor,
        position: Tensor,
        *flat: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.is_exact, ctx.backward_dtype = is_exact, backward
        ctx.save_for_backward(x, position, *flat[::2])
        return tuple(_linears_of_sum(is_exact, x, position, *flat))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        x, position, *weights = ctx.saved_tensors
        if ctx.backward_dtype is not None:
            return None, None, *_low_gradients(ctx.backward_dtype, x, position, weights, grads)
        total = (x + position).to(weights[0].dtype).flatten(0, -2)
        rows = [g.reshape(-1, g.shape[-1]) for g in grads]
        multiply = exact_linear if ctx.is_exact else linear
        grad_sum = multiply(rows[0], weights[0].t())
        for row, weight in zip(rows[1:], weights[1:], strict=True):
            grad_sum.add_(multiply(row, weight.t()))
        grad_sum = grad_sum.view(x.shape).to(x.dtype)
        of_layers: list[Tensor] = []
        for row in rows:
            grad_weight = exact_linear(row.t(), total.t()) if ctx.is_exact else row.t() @ total
            of_layers += [grad_weight, row.sum(0)]
        return None, None, grad_sum, grad_sum, *of_layers


def _low_gradients(
    dtype: torch.dtype,
    x: Tensor,
    position: Tensor,
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
) -> list[Tensor]:
    """Gradients of `x`, `position` and every weight and bias of `linears_of_sum`, by products in a
    low precision: one for all layers, whose gradients are copied side by side."""
    outputs = [len(weight) for weight in weights]
    total = (x + position).to(dtype).flatten(0, -2)
    rows = total.new_empty(len(total), sum(outputs))
    for part, grad in zip(rows.split(outputs, dim=1), grads, strict=True):
        part.copy_(grad.reshape(part.shape))
    grad_sum = linear(rows, torch.cat([w.to(dtype) for w in weights]).t())
    grad_sum = grad_sum.view(x.shape).to(x.dtype)
    of_weights = (rows.t() @ total).split(outputs)
    of_layers: list[Tensor] = []
    for weight, grad_weight, grad in zip(weights, of_weights, grads, strict=True):
        of_layers += [grad_weight.to(weight.dtype), grad.flatten(0, -2).sum(0)]
    return [grad_sum, grad_sum, *of_layers]


def feed_forward(x: Tensor, first: nn.Linear, second: nn.Linear) -> Tensor:
    """`second(relu(first(x)))`, [..., C]; the gradient of the hidden units is masked in place."""
    arguments = (x, first.weight, first.bias, second.weight, second.bias)
    x, w1, b1, w2, b2 = as_autocast(x.device.type, *arguments)
    if is_recorded(x, w1, b1, w2, b2):
        return _FeedForward.apply(x, w1, b1, w2, b2)
    return linear(linear(x, w1, b1, relu=True), w2, b2)


class _FeedForward(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        hidden = linear(x, w1, b1, relu=True)
        ctx.save_for_backward(x, hidden, w1, w2)
        return linear(hidden, w2, b2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, hidden, w1, w2 = ctx.saved_tensors
        grad, x_rows, hidden = (t.reshape(-1, t.shape[-1]) for t in (grad, x, hidden))
        grad_w2, grad_b2 = grad.t() @ hidden, grad.sum(0)
        slope = linear(grad, w2.t())
        torch.ops.aten.threshold_backward.grad_input(slope, hidden, 0, grad_input=slope)
        grad_x = linear(slope, w1.t()).view(x.shape)
        return grad_x, slope.t() @ x_rows, slope.sum(0), grad_w2, grad_b2


class Linear(nn.Linear):
    """`nn.Linear` over the routine of `linear.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., O]."""
        x, weight, bias = as_autocast(x.device.type, x, self.weight, self.bias)
        if is_recorded(x, weight, bias):
            return _Linear.apply(x, weight, bias)
        return linear(x, weight, bias)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = linear(rows, weight.t()).view(x.shape) if ctx.needs_input_grad[0] else None
        return grad_x, rows.t() @ x.reshape(-1, x.shape[-1]), rows.sum(0)


def scaled_conv2d(x: Tensor, conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> Tensor:
    """`conv(x) * scale + shift` per channel, as one convolution; the scaled weight is not kept.

    Args:
        x: [n, C, h, w].
        conv: without a bias of its own.
        scale: [O] and shift: [O], constants.
    """
    if isinstance(conv, GraphConv2d) and conv.is_operator:
        return convolution(x, conv, shift, scale)
    weight: Tensor = conv.weight
    x, low = as_autocast(x.device.type, x)[0], None
    if is_autocast_to_bfloat16(x.device.type) and weight.dtype == torch.float32:
        low = torch.bfloat16
    else:
        (weight,) = as_autocast(x.device.type, weight)
    assert isinstance(conv.padding, tuple)
    geometry = (conv.stride, conv.padding, conv.dilation)
    if is_recorded(x, weight):
        return _ScaledConv2d.apply(x, weight, scale, shift, geometry, conv.groups, low)
    return _scaled_conv2d(x, weight, scale, shift, geometry, conv.groups, low)


def _scaled_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    geometry: Geometry,
    groups: int,
    low: torch.dtype | None,
) -> Tensor:
    shift = shift if shift.dtype == x.dtype else shift.to(x.dtype)
    return F.conv2d(x, _scaled(weight, scale, low), shift, *geometry, groups)


class _ScaledConv2d(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        geometry: Geometry,
        groups: int,
        low: torch.dtype | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, scale)
        ctx.geometry, ctx.groups, ctx.low = geometry, groups, low
        return _scaled_conv2d(x, weight, scale, shift, geometry, groups, low)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, weight, scale = ctx.saved_tensors
        scaled = _scaled(weight, scale, ctx.low)
        needs = [*ctx.needs_input_grad[:2], False]
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, scaled, None, *ctx.geometry, False, (0, 0), ctx.groups, needs
        )
        if grad_weight is not None:
            if ctx.low is not None:
                layout = torch.contiguous_format
                grad_weight = grad_weight.to(weight.dtype, memory_format=layout)
            grad_weight.mul_(_per_output(scale, grad_weight))
        return grad_x, grad_weight, None, None, None, None, None


def _scaled(weight: Tensor, scale: Tensor, low: torch.dtype | None) -> Tensor:
    """The weight of a convolution times the scale; where it is to be `low`, channels are
    innermost, as in its maps."""
    scaled = weight * _per_output(scale, weight)
    return scaled if low is None else scaled.to(low, memory_format=torch.channels_last)


def _per_output(scale: Tensor, weight: Tensor) -> Tensor:
    """[O] -> [O, 1, 1, 1] in the dtype of the weight."""
    scale = scale.view(-1, 1, 1, 1)
    return scale if scale.dtype == weight.dtype else scale.to(weight.dtype)


def as_autocast(device: str, *tensors: Tensor) -> list[Tensor]:
    """What autocast on a type of device makes of the float32 arguments of a matrix product."""
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return list(tensors)
    low = torch.get_autocast_dtype(device)
    return [t.to(low) if t.dtype == torch.float32 else t for t in tensors]
