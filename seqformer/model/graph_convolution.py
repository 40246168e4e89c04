"""Convolutions of a graph as operators that its compiler does not look into.

Inductor (torch 2.13) fixes the sizes of the maps where it lowers the backward pass of
`aten.convolution`: it asks for the order of strides as numbers, so every size of frame would
compile the training step anew. It calls the same routines as eager anyway.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Maps of any strides are taken; results are contiguous.
_operator = partial(torch.library.custom_op, mutates_args=(), tags=(torch.Tag.flexible_layout,))


class GraphConv2d(nn.Conv2d):
    """An `nn.Conv2d` that is one operator in a graph of dynamo that has a backward pass."""

    @property
    def is_operator(self) -> bool:
        """Whether it is one now."""
        return torch.compiler.is_dynamo_compiling() and torch.is_grad_enabled()

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, h, w] -> [n, O, h', w']."""
        if self.is_operator:
            return convolution(x, self, self.bias)
        return super().forward(x)


def use_graph_convolutions(model: nn.Module) -> None:
    """Make every `nn.Conv2d` of a model a `GraphConv2d`, in place; eager results stay."""
    for module in model.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            module.__class__ = GraphConv2d


def convolution(
    x: Tensor, conv: nn.Conv2d, bias: Tensor | None, scale: Tensor | None = None
) -> Tensor:
    """`x` [n, C, h, w] through `conv` with another bias [O], and with its weight times `scale` [O].

    Neither the scaled weight nor one in autocast's type is kept for the backward pass: the graph's
    partitioner would keep both.
    """
    assert isinstance(conv.padding, tuple)
    geometry = [*conv.stride, *conv.padding, *conv.dilation]
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    if bias is not None and bias.dtype != x.dtype:
        bias = bias.to(x.dtype)
    return _convolution(x, conv.weight, bias, scale, geometry, conv.groups)


@_operator("seqformer_model::convolution")
def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    geometry: list[int],
    groups: int,
) -> Tensor:
    if x.device.type == "cpu" and x.shape[1] < 8:  # they fill no vector unless they are innermost
        x = x.contiguous(memory_format=torch.channels_last)
    weight = _scaled(weight, scale, x.dtype)
    stride, padding, dilation = geometry[:2], geometry[2:4], geometry[4:]
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups).contiguous()


@_convolution.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    geometry: list[int],
    groups: int,
) -> Tensor:
    sides = [
        (x.shape[2 + i] + 2 * geometry[2 + i] - geometry[4 + i] * (weight.shape[2 + i] - 1) - 1)
        // geometry[i]
        + 1
        for i in range(2)
    ]
    return x.new_empty(x.shape[0], weight.shape[0], *sides)


def _scaled(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The weight [O, ...] times the scale [O], in a type."""
    if scale is not None:
        weight = weight * scale.to(weight.dtype).view(-1, 1, 1, 1)
    return weight.to(dtype)


@_operator("seqformer_model::convolution_backward")
def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    geometry: list[int],
    groups: int,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias; what is not needed is an empty tensor."""
    stride, padding, dilation = geometry[:2], geometry[2:4], geometry[4:]
    scaled = _scaled(weight, scale, x.dtype)
    made = torch.ops.aten.convolution_backward(
        grad, x, scaled, [weight.shape[0]], stride, padding, dilation, False, [0, 0], groups, needs
    )
    full = [x.new_empty(0) if g is None else g.contiguous() for g in made]
    return full[0], _scaled(full[1], scale if needs[1] else None, weight.dtype), full[2]


@_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    geometry: list[int],
    groups: int,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (x.shape, weight.shape, weight.shape[:1])
    full = [
        like.new_empty(s if is_needed else (0,))
        for like, s, is_needed in zip((x, weight, x), shapes, needs, strict=True)
    ]
    return full[0], full[1], full[2]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, scale, ctx.geometry, ctx.groups = inputs
    ctx.save_for_backward(x, weight, *(() if scale is None else (scale,)))


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:3])
    x, weight, *scale = ctx.saved_tensors
    grads = _backward(grad, x, weight, *(scale or [None]), ctx.geometry, ctx.groups, needs)
    asked = [g if is_needed else None for g, is_needed in zip(grads, needs, strict=True)]
    return *asked, None, None, None


_convolution.register_autograd(_gradient, setup_context=_setup_context)
