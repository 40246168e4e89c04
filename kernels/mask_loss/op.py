"""The mask losses as operators of torch: registration, shapes, gradients, FLOPs, dispatch.

As `mask_head/op.py`. Arguments are checked already; letters as in `mask_head/__init__.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from ..backend import kernel_implementation
from ..mask_head.op import fake_gradients, head_flops, head_of, sizes_of, wanted_gradients
from ..mask_head.spec import MaskHead, check_index, check_values, compute_dtype
from ..tracing import is_watched, needs_graph
from . import cpu_torch


def sums(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    targets: Tensor,
    target_index: Tensor,
    head: MaskHead,
    target_stride: int,
    alpha: float,
    gamma: float,
) -> Tensor:
    """`forward` by the shortest way: around the operator where nobody traces."""
    tensors = (mask_features, mask_params, reference_points, clip_index, targets, target_index)
    settings = (target_stride, alpha, gamma)
    if is_watched(*tensors):
        return forward(*tensors, sizes_of(head), *settings)
    if needs_graph(mask_features, mask_params, reference_points):
        return _DynamicMaskLoss.apply(*tensors, head, *settings)
    return _forward(*tensors, head, *settings)


class _DynamicMaskLoss(torch.autograd.Function):
    """The operators' gradient without the operators."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        ctx.save_for_backward(*inputs[:6])
        ctx.settings = inputs[6:]
        return _forward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        needs = [wanted[0], wanted[1] or wanted[2]]
        grads = _backward(grad_sums, *ctx.saved_tensors, *ctx.settings, needs)
        return (*wanted_gradients(wanted, grads), *[None] * 7)


def _forward(*arguments: Any) -> Tensor:
    """Arguments of `sums`."""
    mask_features, _, reference_points, clip_index, targets, target_index, *_ = arguments
    check_values(reference_points, clip_index, mask_features.shape[0])
    check_index("target_index", target_index, targets.shape[0], "targets")
    if kernel_implementation(mask_features) == "triton":
        from ..mask_head import launch

        return launch.loss_forward(*arguments)
    return cpu_torch.forward(*arguments)


def _backward(grad_sums: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    """Arguments of `sums`, and `needs`."""
    if kernel_implementation(arguments[0]) == "triton":
        from ..mask_head import launch

        return launch.loss_backward(grad_sums, *arguments)
    return cpu_torch.backward(grad_sums, *arguments)


@torch.library.custom_op("seqformer_kernels::dynamic_mask_loss", mutates_args=())
def forward(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    targets: Tensor,
    target_index: Tensor,
    sizes: list[int],
    target_stride: int,
    alpha: float,
    gamma: float,
) -> Tensor:
    """Sums over the pixels of an instance, [N, 4]: focal loss, p * t, p, t.

    Args:
        targets: [M, T, H, W] bool or uint8.
        target_index: [N], which of the M.
    """
    tensors = (mask_features, mask_params, reference_points, clip_index)
    head = head_of(mask_features.shape[2], sizes)
    return _forward(*tensors, targets, target_index, head, target_stride, alpha, gamma)


@forward.register_fake
def _(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    targets: Tensor,
    target_index: Tensor,
    sizes: list[int],
    target_stride: int,
    alpha: float,
    gamma: float,
) -> Tensor:
    dtype = compute_dtype(mask_features, mask_params, reference_points)
    return mask_features.new_empty(mask_params.shape[0], 4, dtype=dtype)


@torch.library.custom_op("seqformer_kernels::dynamic_mask_loss_backward", mutates_args=())
def backward(
    grad_sums: Tensor,
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    targets: Tensor,
    target_index: Tensor,
    sizes: list[int],
    target_stride: int,
    alpha: float,
    gamma: float,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of features, parameters and references; `needs` as in `mask_head/op.py`."""
    tensors = (grad_sums, mask_features, mask_params, reference_points, clip_index)
    head = head_of(mask_features.shape[2], sizes)
    settings = (head, target_stride, alpha, gamma, needs)
    grads = _backward(*tensors, targets, target_index, *settings)
    return tuple(grad_sums.new_empty(0) if g is None else g for g in grads)


@backward.register_fake
def _(
    grad_sums: Tensor,
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    targets: Tensor,
    target_index: Tensor,
    sizes: list[int],
    target_stride: int,
    alpha: float,
    gamma: float,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    return fake_gradients(mask_features, mask_params, reference_points, needs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors, ctx.settings = inputs[:6], inputs[6:]
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad
    needs = [wanted[0], wanted[1] or wanted[2]]
    grads = backward(grad_sums, *ctx.saved_tensors, *ctx.settings, needs)
    return (*wanted_gradients(wanted, grads), *[None] * 7)


forward.register_autograd(_gradient, setup_context=_setup_context)

_PIXEL, _PIXEL_BACKWARD = 20, 30
"""Operations per pixel for its share of the sums, and for its gradient."""


def _pixels(features: Any, params: Any, sizes: list[int]) -> int:
    return params[0] * features[1] * features[3] * features[4] * sizes[3] ** 2


@register_flop_formula(torch.ops.seqformer_kernels.dynamic_mask_loss)
def _forward_flops(
    features: Any, params: Any, references: Any, clip: Any, targets: Any, index: Any, sizes: Any,
    *args: Any, out_shape: Any = None, **kw: Any,
) -> int:  # fmt: skip
    return head_flops(features, params, sizes) + _PIXEL * _pixels(features, params, sizes)


@register_flop_formula(torch.ops.seqformer_kernels.dynamic_mask_loss_backward)
def _backward_flops(
    grad: Any, features: Any, params: Any, references: Any, clip: Any, targets: Any, index: Any,
    sizes: Any, target_stride: Any, alpha: Any, gamma: Any, needs: Any,
    *args: Any, out_shape: Any = None, **kw: Any,
) -> int:  # fmt: skip
    pixels = _PIXEL_BACKWARD * _pixels(features, params, sizes)
    return head_flops(features, params, sizes) * (2 + sum(needs)) + pixels
