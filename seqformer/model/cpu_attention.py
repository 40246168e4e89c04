"""Attention among queries; in bfloat16 on a CPU with a backward pass in float32.

PyTorch's backward pass of attention on a CPU takes twice as long in bfloat16 as in float32. So what
is kept for it is bfloat16, as it came, and the pass itself is float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .autograd_state import is_recorded

_FORWARD = "_scaled_dot_product_flash_attention_for_cpu"
HAS_BOTH = hasattr(torch.ops.aten, _FORWARD) and hasattr(torch.ops.aten, f"{_FORWARD}_backward")


def attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """`F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)`, [n, M, Q, D] each."""
    is_bfloat16_on_cpu = q.device.type == "cpu" and q.dtype == torch.bfloat16 == v.dtype
    is_ours = HAS_BOTH and is_bfloat16_on_cpu and not dropout and is_recorded(q, k, v)
    if is_ours and not torch.compiler.is_compiling():
        return _Attention.apply(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, sums = getattr(torch.ops.aten, _FORWARD)(q, k, v)
        ctx.save_for_backward(q, k, v, out, sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        *kept, sums = ctx.saved_tensors
        wide = (grad.float(), *(x.float() for x in kept))
        grads = getattr(torch.ops.aten, f"{_FORWARD}_backward")(*wide, sums, 0.0, False)
        return tuple(x.to(grad.dtype) for x in grads)
