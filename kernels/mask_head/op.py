"""The dynamic mask head as operators of torch: registration, shapes, gradients, FLOPs, dispatch.

Opaque to tracing (`custom_op`), so that torch.compile and torch.export work with or without a GPU
in the machine; `draw` goes around them where nobody traces. Arguments are checked already; letters
as in `__init__.py`. `sizes` are the fields of a `MaskHead` but the first, which the features
tell.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from ..backend import kernel_implementation
from ..tracing import is_watched, needs_graph
from . import cpu_torch
from .spec import MaskHead, check_values


def sizes_of(head: MaskHead) -> list[int]:
    """What an operator is told about a head."""
    return [
        head.hidden_width,
        head.num_layers,
        int(head.relative_coordinates),
        head.upsample,
        head.stride,
    ]


def head_of(channels: int, sizes: list[int]) -> MaskHead:
    """Inverse of `sizes_of`."""
    hidden_width, num_layers, relative, upsample, stride = sizes
    return MaskHead(channels, hidden_width, num_layers, bool(relative), upsample, stride)


def draw(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    head: MaskHead,
) -> Tensor:
    """`forward` by the shortest way: around the operator where nobody traces."""
    tensors = (mask_features, mask_params, reference_points, clip_index)
    if is_watched(*tensors):
        return forward(*tensors, sizes_of(head))
    if needs_graph(mask_features, mask_params, reference_points):
        return _DynamicMaskHead.apply(*tensors, head)
    return _forward(*tensors, head)


class _DynamicMaskHead(torch.autograd.Function):
    """The operators' gradient without the operators."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        ctx.save_for_backward(*inputs[:4])
        ctx.head = inputs[4]
        return _forward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        needs = [wanted[0], wanted[1] or wanted[2]]
        grads = _backward(grad, *ctx.saved_tensors, ctx.head, needs)
        return (*wanted_gradients(wanted, grads), None, None)


def _forward(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    head: MaskHead,
) -> Tensor:
    tensors = (mask_features, mask_params, reference_points, clip_index)
    check_values(reference_points, clip_index, mask_features.shape[0])
    if kernel_implementation(mask_features) == "triton":
        from . import launch

        return launch.forward(*tensors, head)
    return cpu_torch.forward(*tensors, head)


def _backward(
    grad: Tensor,
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    head: MaskHead,
    needs: list[bool],
) -> tuple[Tensor | None, ...]:
    arguments = (grad, mask_features, mask_params, reference_points, clip_index, head, needs)
    if kernel_implementation(mask_features) == "triton":
        from . import launch

        return launch.backward(*arguments)
    return cpu_torch.backward(*arguments)


@torch.library.custom_op("seqformer_kernels::dynamic_mask_head", mutates_args=())
def forward(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    sizes: list[int],
) -> Tensor:
    """[N, T, F*h, F*w] logits in the dtype of the features, contiguous."""
    head = head_of(mask_features.shape[2], sizes)
    return _forward(mask_features, mask_params, reference_points, clip_index, head)


@forward.register_fake
def _(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    sizes: list[int],
) -> Tensor:
    _, T, _, h, w = mask_features.shape
    upsample = sizes[3]
    return mask_features.new_empty(mask_params.shape[0], T, upsample * h, upsample * w)


@torch.library.custom_op("seqformer_kernels::dynamic_mask_head_backward", mutates_args=())
def backward(
    grad: Tensor,
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    sizes: list[int],
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of features, parameters and references.

    Args:
        grad: [N, T, F*h, F*w].
        needs: whether those of features, and of parameters and references are asked for; what is
            not is an empty tensor.
    """
    head = head_of(mask_features.shape[2], sizes)
    grads = _backward(grad, mask_features, mask_params, reference_points, clip_index, head, needs)
    return tuple(grad.new_empty(0) if g is None else g for g in grads)


def fake_gradients(
    mask_features: Tensor, mask_params: Tensor, reference_points: Tensor, needs: list[bool]
) -> tuple[Tensor, ...]:
    """Shapes of the three gradients, for tracing."""
    needs_features, needs_params = needs
    return tuple(
        t.new_empty(t.shape if needed else 0)
        for t, needed in (
            (mask_features, needs_features),
            (mask_params, needs_params),
            (reference_points, needs_params),
        )
    )


@backward.register_fake
def _(
    grad: Tensor,
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    sizes: list[int],
    needs: list[bool],
) -> tuple[Tensor, ...]:
    return fake_gradients(mask_features, mask_params, reference_points, needs)


def wanted_gradients(
    wanted: tuple[bool, ...], grads: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """Those of the first three inputs; None for one that needs none."""
    return tuple(g if want else None for g, want in zip(grads, wanted[:3], strict=True))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.sizes = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad
    needs = [wanted[0], wanted[1] or wanted[2]]
    grads = backward(grad, *ctx.saved_tensors, ctx.sizes, needs)
    return (*wanted_gradients(wanted, grads), None, None)


forward.register_autograd(_gradient, setup_context=_setup_context)


def head_flops(features: Any, params: Any, sizes: list[int]) -> int:
    """One evaluation of every cell of every instance, and its upsampling. Takes shapes."""
    _, T, channels, h, w = features
    head = head_of(channels, sizes)
    cells = params[0] * T * h * w
    upsampling = 4 * cells * head.upsample**2 if head.upsample > 1 else 0
    return 2 * head.num_weights * cells + upsampling


@register_flop_formula(torch.ops.seqformer_kernels.dynamic_mask_head)
def _forward_flops(
    features: Any, params: Any, references: Any, clip: Any, sizes: Any, *args: Any,
    out_shape: Any = None, **kw: Any,
) -> int:  # fmt: skip
    return head_flops(features, params, sizes)


@register_flop_formula(torch.ops.seqformer_kernels.dynamic_mask_head_backward)
def _backward_flops(
    grad: Any, features: Any, params: Any, references: Any, clip: Any, sizes: Any, needs: Any,
    *args: Any, out_shape: Any = None, **kw: Any,
) -> int:  # fmt: skip
    # Hidden values anew, then a product each for the gradients of inputs and of weights.
    return head_flops(features, params, sizes) * (1 + sum(needs))
