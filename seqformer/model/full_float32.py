"""Float32 products that are float32: TF32 rounds none of them.

On Ampere and later GPUs PyTorch may round the inputs of float32 products to 10 bits (TF32).
Training asks for it, since most products do not mind. What makes coordinates does: a box edge of a
768-pixel frame would move by half a pixel. So inference runs inside `full_float32`, and the linear
layers that make offsets, references, boxes, time weights, logits and mask parameters go through
`full_linear`, whose products are exact in both directions, in whatever thread autograd runs them.

The switch belongs to the process, not to a thread. `full_float32` counts who is inside; another
thread that multiplies meanwhile gets float32 too, which is slower and never wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from .autograd_state import is_recorded
from .linear import linear, split_of

_lock = Lock()
_inside = 0
_restore: Callable[[], None] | None = None


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, no float32 product or convolution of this process rounds its inputs to 10 bits."""
    global _inside, _restore
    with _lock:
        if _inside == 0:
            _restore = _turn_off()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _restore is not None:
                _restore()


def use_tf32(allowed: bool) -> None:
    """Let float32 products on Ampere and later GPUs round their inputs to 10 bits, or not."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _turn_off() -> Callable[[], None]:
    """Returns: what restores the settings, through the interface that made them: `allow_tf32`, or
    from torch 2.9 on `fp32_precision`, after which the former refuses to be read."""
    products: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    convolutions: Any = getattr(cudnn, "conv", None)
    saved: list[tuple[Any, str, Any]] = []
    for place, newer in ((products, products), (cudnn, convolutions)):
        try:
            saved.append((place, "allow_tf32", place.allow_tf32))
        except RuntimeError:
            saved.append((newer, "fp32_precision", newer.fp32_precision))
    use_tf32(False)

    def restore() -> None:
        for place, name, value in saved:
            setattr(place, name, value)

    return restore


def may_round(x: Tensor) -> bool:
    """Whether TF32 may round a product with `x` now; not under autocast, which rounds it anyway."""
    if x.device.type != "cuda" or x.dtype != torch.float32 or torch.is_autocast_enabled("cuda"):
        return False
    if torch.compiler.is_compiling():  # what is traced now may run under another setting
        return True
    try:
        return torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:  # set through the newer interface
        return True


_library = torch.library.Library("seqformer", "DEF")
_library.define("full_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


@torch.library.impl(_library, "full_linear", "CompositeExplicitAutograd")
def _full_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with full_float32():
        return F.linear(x, weight, bias)


@torch.library.register_fake("seqformer::full_linear", lib=_library)
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@register_flop_formula(torch.ops.seqformer.full_linear)
def _flops(x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(x) * weight[0]


def exact_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear(x, weight, bias)` in full float32, without gradient; one operator, so that
    torch.compile does not look inside."""
    return torch.ops.seqformer.full_linear(x, weight, bias)


def full_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear(x, weight, bias)`, in full float32 forward and backward.

    Args:
        x: [..., C].
        weight: [O, C]. bias: [O].

    Returns: [..., O].
    """
    if split_of(x, weight) is not None:
        return linear(x, weight, bias)
    if not may_round(x):
        return F.linear(x, weight, bias)
    if is_recorded(x, weight, bias):
        return _FullLinear.apply(x, weight, bias)
    return exact_linear(x, weight, bias)


class _FullLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return exact_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = exact_linear(rows, weight.t()).view(x.shape)
        grad_weight = exact_linear(rows.t(), x.reshape(-1, x.shape[-1]).t())
        return grad_x, grad_weight, rows.sum(0)


class FullLinear(nn.Linear):
    """`nn.Linear` whose products TF32 does not round."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., O]."""
        return full_linear(x, self.weight, self.bias)
