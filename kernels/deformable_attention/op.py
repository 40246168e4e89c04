"""Deformable attention as operators of torch: registration, shapes, gradients, FLOPs, dispatch.

One pair of operators serves both public functions. They are opaque to tracing (`custom_op`), so
torch.compile and torch.export work with or without a GPU in the machine. `attend` goes around them
where nobody traces. Letters as in `__init__.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from ..backend import kernel_implementation
from ..tracing import is_watched, needs_graph
from . import cpu

Shapes = tuple[tuple[int, int], ...]


def attend(
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: Shapes,
) -> Tensor:
    """`forward` by the shortest way; arguments as there, but for the shapes, (height, width)."""
    if is_watched(value, points, weights, reference, valid):
        return forward(
            value, points, weights, reference, valid, [n for pair in shapes for n in pair]
        )
    if needs_graph(value, points, weights, reference):
        return _MSDeformAttn.apply(value, points, weights, reference, valid, shapes)
    return _forward(value, points, weights, reference, valid, shapes)


def check_tokens(value: Tensor, shapes: Shapes) -> None:
    """Raises: ValueError: the areas of the levels do not sum to S of value [B, S, M, D]."""
    tokens, S = sum(h * w for h, w in shapes), value.shape[1]
    if tokens != S:
        raise ValueError(
            f"spatial_shapes {list(shapes)} hold {tokens} tokens but value has S = {S}: "
            f"got value {list(value.shape)}, expected [B, S, M, D] with S = {tokens}"
        )


class _MSDeformAttn(torch.autograd.Function):
    """The operators' gradient without the operators."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        ctx.save_for_backward(*inputs[:5])
        ctx.shapes = inputs[5]
        return _forward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        value, points, weights, reference, valid = ctx.saved_tensors
        grads = _backward(
            grad_output, value, points, weights, reference, valid, ctx.shapes, _needs(ctx)
        )
        return *_asked_for(ctx, grads), None, None


def _forward(
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: Shapes,
) -> Tensor:
    return _implementation(value).forward(value, points, weights, reference, valid, shapes)


def _backward(
    grad_output: Tensor,
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: Shapes,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    return _implementation(value).backward(
        grad_output, value, points, weights, reference, valid, shapes, needs
    )


def _implementation(value: Tensor) -> ModuleType:
    """The module that answers a call."""
    if kernel_implementation(value) == "triton":
        from . import launch

        return launch
    return cpu


def _needs(ctx: Any) -> list[bool]:
    """What the kernels are asked for: gradients of value, of points and weights, of reference."""
    value, points, weights, reference, *_ = ctx.needs_input_grad
    return [value, points or weights, reference]


def _asked_for(ctx: Any, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Of the four gradients, those that autograd asked for."""
    return [g if needs else None for g, needs in zip(grads, ctx.needs_input_grad, strict=False)]


@torch.library.custom_op("seqformer_kernels::ms_deform_attn", mutates_args=())
def forward(
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: list[int],
) -> Tensor:
    """Sample and blend.

    Args:
        value: [B, S, M, D].
        points: locations without, offsets with a reference; [B / a, Q, M, L, P, 2] where a images
            in a row share them.
        weights: attention weights without, logits with a reference; [B / a, Q, M, L, P].
        reference: [B / b, Q, L, 2 or 4], or None.
        valid: [B / c, L, 2] int32 heights and widths, or None.
        shapes: heights and widths of the levels, flat.

    Returns: [B, Q, M*D], contiguous, in value's dtype.
    """
    check_tokens(value, _pairs(shapes))
    return _forward(value, points, weights, reference, valid, _pairs(shapes))


@forward.register_fake
def _(
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: list[int],
) -> Tensor:
    return value.new_empty(value.shape[0], points.shape[1], value.shape[2] * value.shape[3])


@torch.library.custom_op("seqformer_kernels::ms_deform_attn_backward", mutates_args=())
def backward(
    grad_output: Tensor,
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: list[int],
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of value, points, weights and reference.

    Args:
        needs: whether those of value, of points and weights, and of reference are asked for; what
            is not is an empty tensor.
    """
    grads = _backward(grad_output, value, points, weights, reference, valid, _pairs(shapes), needs)
    full = [value.new_empty(0) if grad is None else grad for grad in grads]
    return full[0], full[1], full[2], full[3]


@backward.register_fake
def _(
    grad_output: Tensor,
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: list[int],
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    needs_value, needs_samples, needs_reference = needs
    nothing = value.new_empty(0)
    return (
        value.new_empty(value.shape) if needs_value else nothing,
        points.new_empty(points.shape) if needs_samples else value.new_empty(0),
        weights.new_empty(weights.shape) if needs_samples else value.new_empty(0),
        value.new_empty(0) if reference is None else _like(reference, needs_reference),
    )


def _like(tensor: Tensor, is_needed: bool) -> Tensor:
    return tensor.new_empty(tensor.shape if is_needed else 0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.shapes = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    grads = backward(grad_output, *ctx.saved_tensors, ctx.shapes, _needs(ctx))
    return *_asked_for(ctx, grads), None, None


forward.register_autograd(_gradient, setup_context=_setup_context)


def _pairs(shapes: list[int]) -> Shapes:
    return tuple(zip(shapes[::2], shapes[1::2], strict=True))


# A corner is a multiply-add per channel. Placing a sample costs about 30 operations.
_CORNERS, _PLACING = 4, 30


@register_flop_formula(torch.ops.seqformer_kernels.ms_deform_attn)
def _forward_flops(value: Any, points: Any, *args: Any, out_shape: Any = None, **kw: Any) -> int:
    samples = value[0] * math.prod(points[1:5])
    return samples * (2 * _CORNERS * value[3] + _PLACING)


@register_flop_formula(torch.ops.seqformer_kernels.ms_deform_attn_backward)
def _backward_flops(
    grad_output: Any, value: Any, points: Any, *args: Any, out_shape: Any = None, **kw: Any
) -> int:
    # per corner and channel: one multiply-add for the dot product, one to add to value
    samples = value[0] * math.prod(points[1:5])
    return samples * (4 * _CORNERS * value[3] + 2 * _PLACING)
