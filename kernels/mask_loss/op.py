"""The mask losses as operators of torch: registration, shapes, gradients, FLOPs, dispatch.

As `mask_head/op.py`. Operators take the fields of `MaskHeadInputs` and `LossTargets` one by one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from ..backend import kernel_implementation
from ..mask_head.inputs import MaskHeadConfig, MaskHeadInputs, check_index, check_values
from ..mask_head.op import (
    INPUTS_SCHEMA,
    asked_for,
    fake_gradients,
    head_flops,
    head_of,
    needed,
    sizes_of,
)
from ..tracing import is_watched, needs_graph
from . import cpu
from .inputs import LossTargets

_SCHEMA = (
    f"{INPUTS_SCHEMA}, Tensor targets, Tensor target_index, SymInt[] sizes, "
    "SymInt target_stride, float alpha, float gamma"
)


def sums(inputs: MaskHeadInputs, head: MaskHeadConfig, given: LossTargets) -> Tensor:
    """`forward` by the shortest way: around the operator where nobody traces."""
    if is_watched(*inputs, given.masks, given.index):
        targets, index, *settings = given
        return forward(*inputs, targets, index, sizes_of(head), *settings)
    if needs_graph(*inputs[:3]):
        return _DynamicMaskLoss.apply(*inputs, head, *given)
    return _forward(inputs, head, given)


class _DynamicMaskLoss(torch.autograd.Function):
    """The operators' gradient without the operators."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, ctx.head, masks, index, stride, alpha, gamma = arguments
        ctx.settings = (stride, alpha, gamma)
        ctx.save_for_backward(*inputs, masks, index)
        return _forward(MaskHeadInputs(*inputs), ctx.head, LossTargets(masks, index, *ctx.settings))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, masks, index = ctx.saved_tensors
        given = LossTargets(masks, index, *ctx.settings)
        needs = needed(ctx.needs_input_grad)
        grads = _backward(grad_sums, MaskHeadInputs(*inputs), ctx.head, given, needs)
        return (*asked_for(ctx.needs_input_grad, grads), *[None] * 7)


def _forward(inputs: MaskHeadInputs, head: MaskHeadConfig, given: LossTargets) -> Tensor:
    check_values(inputs)
    check_index("target_index", given.index, given.masks.shape[0], "targets")
    if kernel_implementation(inputs.features) == "triton":
        from . import launch

        return launch.forward(inputs, head, given)
    return cpu.forward(inputs, head, given)


def _backward(
    grad_sums: Tensor,
    inputs: MaskHeadInputs,
    head: MaskHeadConfig,
    given: LossTargets,
    needs: list[bool],
) -> tuple[Tensor | None, ...]:
    if kernel_implementation(inputs.features) == "triton":
        from . import launch

        return launch.backward(grad_sums, inputs, head, given, needs)
    return cpu.backward(grad_sums, inputs, head, given, needs)


def _unpacked(arguments: Any) -> tuple[MaskHeadInputs, MaskHeadConfig, LossTargets]:
    """From arguments in the order of the schema."""
    *inputs, masks, index, sizes, stride, alpha, gamma = arguments
    inputs = MaskHeadInputs(*inputs)
    head = head_of(inputs.features.shape[2], sizes)
    return inputs, head, LossTargets(masks, index, stride, alpha, gamma)


@torch.library.custom_op(
    "seqformer_kernels::dynamic_mask_loss", mutates_args=(), schema=f"({_SCHEMA}) -> Tensor"
)
def forward(*arguments: Any) -> Tensor:
    """Sums over the pixels of an instance, [N, 4]: focal loss, p * t, p, t."""
    return _forward(*_unpacked(arguments))


@forward.register_fake
def _(*arguments: Any) -> Tensor:
    inputs, _, _ = _unpacked(arguments)
    return inputs.features.new_empty(inputs.params.shape[0], 4, dtype=inputs.compute_dtype)


@torch.library.custom_op(
    "seqformer_kernels::dynamic_mask_loss_backward",
    mutates_args=(),
    schema=f"(Tensor grad_sums, {_SCHEMA}, bool[] needs) -> (Tensor, Tensor, Tensor)",
)
def backward(*arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of features, parameters and references.

    Args:
        arguments: `grad_sums`, [N, 4], those of `forward`, and `needs` as in `mask_head/op.py`.
    """
    grad_sums, *given, needs = arguments
    grads = _backward(grad_sums, *_unpacked(given), needs)
    return tuple(grad_sums.new_empty(0) if g is None else g for g in grads)


@backward.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    _, *given, needs = arguments
    return fake_gradients(_unpacked(given)[0], needs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors, ctx.settings = inputs[:6], inputs[6:]
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
    needs = needed(ctx.needs_input_grad)
    grads = backward(grad_sums, *ctx.saved_tensors, *ctx.settings, needs)
    return (*asked_for(ctx.needs_input_grad, grads), *[None] * 7)


forward.register_autograd(_gradient, setup_context=_setup_context)

_PIXEL, _PIXEL_BACKWARD = 20, 30
"""Operations per pixel for its share of the sums, and for its gradient."""


def _pixels(features: Any, params: Any, sizes: list[int]) -> int:
    return params[0] * features[1] * features[3] * features[4] * sizes[3] ** 2


@register_flop_formula(torch.ops.seqformer_kernels.dynamic_mask_loss)
def _forward_flops(*shapes: Any, out_shape: Any = None, **kw: Any) -> int:
    features, params, sizes = shapes[0], shapes[1], shapes[6]
    return head_flops(features, params, sizes) + _PIXEL * _pixels(features, params, sizes)


@register_flop_formula(torch.ops.seqformer_kernels.dynamic_mask_loss_backward)
def _backward_flops(*shapes: Any, out_shape: Any = None, **kw: Any) -> int:
    features, params, sizes, needs = shapes[1], shapes[2], shapes[7], shapes[11]
    pixels = _PIXEL_BACKWARD * _pixels(features, params, sizes)
    return head_flops(features, params, sizes) * (2 + sum(needs)) + pixels
