"""The dynamic mask head as operators of torch: registration, shapes, gradients, FLOPs, dispatch.

Opaque to tracing (`custom_op`), so that torch.compile and torch.export work with or without a GPU
in the machine; `draw` goes around them where nobody traces. Arguments are checked already; letters
as in `__init__.py`. Operators take the fields of `MaskHeadInputs` one by one, and `sizes`: the
fields of a `MaskHeadConfig` but the first, which the features tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from ..backend import kernel_implementation
from ..tracing import is_watched, needs_graph
from . import cpu
from .inputs import MaskHeadConfig, MaskHeadInputs, check_values

INPUTS_SCHEMA = (
    "Tensor mask_features, Tensor mask_params, Tensor reference_points, Tensor clip_index"
)


def sizes_of(head: MaskHeadConfig) -> list[int]:
    """What an operator is told about a head."""
    return [
        head.hidden_width,
        head.num_layers,
        int(head.relative_coordinates),
        head.upsample,
        head.stride,
    ]


def head_of(channels: int, sizes: list[int]) -> MaskHeadConfig:
    """Inverse of `sizes_of`."""
    hidden_width, num_layers, relative, upsample, stride = sizes
    return MaskHeadConfig(channels, hidden_width, num_layers, bool(relative), upsample, stride)


def draw(inputs: MaskHeadInputs, head: MaskHeadConfig) -> Tensor:
    """`forward` by the shortest way: around the operator where nobody traces."""
    if is_watched(*inputs):
        return forward(*inputs, sizes_of(head))
    if needs_graph(*inputs[:3]):
        return _DynamicMaskHead.apply(*inputs, head)
    return _forward(inputs, head)


class _DynamicMaskHead(torch.autograd.Function):
    """The operators' gradient without the operators."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, ctx.head = arguments
        ctx.save_for_backward(*inputs)
        return _forward(MaskHeadInputs(*inputs), ctx.head)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = MaskHeadInputs(*ctx.saved_tensors)
        grads = _backward(grad, inputs, ctx.head, needed(ctx.needs_input_grad))
        return (*asked_for(ctx.needs_input_grad, grads), None, None)


def _forward(inputs: MaskHeadInputs, head: MaskHeadConfig) -> Tensor:
    check_values(inputs)
    if kernel_implementation(inputs.features) == "triton":
        from . import launch

        return launch.forward(inputs, head)
    return cpu.forward(inputs, head)


def _backward(
    grad: Tensor, inputs: MaskHeadInputs, head: MaskHeadConfig, needs: list[bool]
) -> tuple[Tensor | None, ...]:
    if kernel_implementation(inputs.features) == "triton":
        from . import launch

        return launch.backward(grad, inputs, head, needs)
    return cpu.backward(grad, inputs, head, needs)


@torch.library.custom_op(
    "seqformer_kernels::dynamic_mask_head",
    mutates_args=(),
    schema=f"({INPUTS_SCHEMA}, SymInt[] sizes) -> Tensor",
)
def forward(*arguments: Any) -> Tensor:
    """[N, T, F*h, F*w] logits in the dtype of the features, contiguous."""
    *tensors, sizes = arguments
    inputs = MaskHeadInputs(*tensors)
    return _forward(inputs, head_of(inputs.features.shape[2], sizes))


@forward.register_fake
def _(*arguments: Any) -> Tensor:
    features, params, _, _, sizes = arguments
    _, T, _, h, w = features.shape
    upsample = sizes[3]
    return features.new_empty(params.shape[0], T, upsample * h, upsample * w)


@torch.library.custom_op(
    "seqformer_kernels::dynamic_mask_head_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {INPUTS_SCHEMA}, SymInt[] sizes, bool[] needs)"
    " -> (Tensor, Tensor, Tensor)",
)
def backward(*arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of features, parameters and references.

    Args:
        arguments: `grad`, [N, T, F*h, F*w], those of `forward`, and `needs`: whether gradients of
            features, and of parameters and references are asked for; what is not is an empty
            tensor.
    """
    grad, *tensors, sizes, needs = arguments
    inputs = MaskHeadInputs(*tensors)
    grads = _backward(grad, inputs, head_of(inputs.features.shape[2], sizes), needs)
    return tuple(grad.new_empty(0) if g is None else g for g in grads)


def fake_gradients(inputs: MaskHeadInputs, needs: Sequence[bool]) -> tuple[Tensor, ...]:
    """Shapes of the three gradients, for tracing."""
    needs_features, needs_params = needs
    is_needed = (needs_features, needs_params, needs_params)
    return tuple(
        t.new_empty(t.shape if n else 0) for t, n in zip(inputs[:3], is_needed, strict=True)
    )


@backward.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    _, *inputs, _, needs = arguments
    return fake_gradients(MaskHeadInputs(*inputs), needs)


def needed(needs_grad: Sequence[bool]) -> list[bool]:
    """What the kernels are asked for: gradients of features, of parameters and references."""
    return [needs_grad[0], needs_grad[1] or needs_grad[2]]


def asked_for(
    needs_grad: Sequence[bool], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Gradients of the first three inputs; None for one that needs none."""
    return tuple(g if needs else None for g, needs in zip(grads, needs_grad[:3], strict=True))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.sizes = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = backward(grad, *ctx.saved_tensors, ctx.sizes, needed(ctx.needs_input_grad))
    return (*asked_for(ctx.needs_input_grad, grads), None, None)


forward.register_autograd(_gradient, setup_context=_setup_context)


def head_flops(features: Any, params: Any, sizes: list[int]) -> int:
    """One evaluation of every cell of every instance, and its upsampling. Takes shapes."""
    _, T, channels, h, w = features
    head = head_of(channels, sizes)
    cells = params[0] * T * h * w
    upsampling = 4 * cells * head.upsample**2 if head.upsample > 1 else 0
    return 2 * head.num_weights * cells + upsampling


@register_flop_formula(torch.ops.seqformer_kernels.dynamic_mask_head)
def _forward_flops(*shapes: Any, out_shape: Any = None, **kw: Any) -> int:
    features, params, _, _, sizes = shapes
    return head_flops(features, params, sizes)


@register_flop_formula(torch.ops.seqformer_kernels.dynamic_mask_head_backward)
def _backward_flops(*shapes: Any, out_shape: Any = None, **kw: Any) -> int:
    _, features, params, _, _, sizes, needs = shapes
    # Hidden values anew, then a product each for the gradients of inputs and of weights.
    return head_flops(features, params, sizes) * (1 + sum(needs))
