"""Split products as an operator of torch: registration, shapes, FLOPs.

Letters as in `__init__.py`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import cpu, reference


@torch.library.custom_op("seqformer_kernels::split_product", mutates_args=())
def forward(
    x: Tensor,
    parts: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    outputs: int,
    stride: int,
    padding: int,
    relu: bool,
) -> Tensor:
    """[n, C, h, w] -> [n, O, H, W], channels innermost; `other` is added before the ReLU."""
    return cpu.forward(x, parts, bias, other, outputs, stride, padding, relu)


@forward.register_fake
def _(
    x: Tensor,
    parts: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    outputs: int,
    stride: int,
    padding: int,
    relu: bool,
) -> Tensor:
    size = reference.result_size(x, parts, stride, padding)
    return x.new_empty(x.shape[0], *size, outputs).permute(0, 3, 1, 2)


@register_flop_formula(torch.ops.seqformer_kernels.split_product)
def _flops(x: Any, parts: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """As of the float32 convolution that it stands for."""
    return 2 * math.prod(out_shape) * x[1] * parts[2] ** 2
