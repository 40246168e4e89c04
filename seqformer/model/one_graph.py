"""The model as one graph of torch.compile: where its compiler fails on sizes that are symbols.

Inductor (torch 2.13) on a CPU cannot order the strides of some results when heights and widths are
symbols. Here they get strides that it can, in graphs of dynamo only; a call that is executed, or
exported, is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .graph_convolution import use_graph_convolutions


def as_one_graph(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function through torch.compile, whole, for any frame size and number of frames.

    Inductor would bring every convolution's weight into its own layout in every call on a CPU,
    which costs more than it gains.
    """
    options: dict[str, Any] = {"layout_optimization": False}
    return torch.compile(function, fullgraph=True, dynamic=True, options=options)


def frames_as_one_graph(model: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    """As `as_one_graph`, of a method of the model that takes images.

    Its graph gets the number of tokens with every call: worked out of heights and widths that are
    symbols, it would be most of what the compiler has to simplify. The model's convolutions become
    operators in graphs (`GraphConv2d`).
    """
    use_graph_convolutions(model)
    compiled = as_one_graph(method)

    def run(images: Tensor, *args: Any, place: Tensor | None = None, **options: Any) -> Any:
        if place is None:
            place = model.token_place(images)
        return compiled(images, *args, place=place, **options)

    return run


def with_own_strides(x: Tensor) -> Tensor:
    """`x`; in a graph of dynamo a contiguous copy, by an operator that no pass looks into.

    For a view of an input that a convolution keeps for its backward pass, which would get channels
    innermost, and for a map that is a result: inductor would compare its strides with those of
    eager, as products of symbols.
    """
    return _copied(x) if torch.compiler.is_dynamo_compiling() else x


@torch.library.custom_op(
    "seqformer_model::copied", mutates_args=(), tags=(torch.Tag.flexible_layout,)
)
def _copied(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


@_copied.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _gradient(ctx: Any, grad: Tensor) -> Tensor:
    return grad


_copied.register_autograd(_gradient)
