"""Deformable attention as operators of torch: registration, shapes, gradients, FLOPs, dispatch.

One pair of operators serves both public functions. They are opaque to tracing (`custom_op`), so
torch.compile and torch.export work with or without a GPU in the machine. Letters as in `msda.py`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import msda_cpu
from .backend import kernel_implementation


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
    arguments = (value, points, weights, reference, valid, _pairs(shapes))
    if kernel_implementation(value) == "triton":
        from . import msda_launch

        return msda_launch.forward(*arguments)
    return msda_cpu.forward(*arguments)


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
    arguments = (grad_output, value, points, weights, reference, valid, _pairs(shapes), needs)
    if kernel_implementation(value) == "triton":
        from . import msda_launch

        grads = msda_launch.backward(*arguments)
    else:
        grads = msda_cpu.backward(*arguments)
    return tuple(value.new_empty(0) if grad is None else grad for grad in grads)


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
        reference.new_empty(reference.shape) if needs_reference else value.new_empty(0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.shapes = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad
    needs = [wanted[0], wanted[1] or wanted[2], wanted[3]]
    grads = backward(grad_output, *ctx.saved_tensors, ctx.shapes, needs)
    given = [grad if want else None for grad, want in zip(grads, wanted, strict=False)]
    return (*given, None, None)


forward.register_autograd(_backward, setup_context=_setup_context)


def _pairs(shapes: list[int]) -> tuple[tuple[int, int], ...]:
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
