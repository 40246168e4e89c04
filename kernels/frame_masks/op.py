"""Thresholds as an operator of torch: registration, shapes, FLOPs, dispatch.

Arguments are checked already; letters as in `__init__.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..backend import kernel_implementation
from . import cpu


@torch.library.custom_op("seqformer_kernels::threshold_masks", mutates_args=())
def forward(logits: Tensor, height: int, width: int, packed: bool) -> Tensor:
    """`run` as an operator of torch, opaque to tracing."""
    return run(logits, height, width, packed)


@torch.no_grad()
def run(logits: Tensor, height: int, width: int, packed: bool) -> Tensor:
    """Masks of logits [M, h, w]: uint8 [M, W, H], or packed [M, W, ceil(H / 8)]."""
    if kernel_implementation(logits) == "triton":
        from . import launch

        return launch.forward(logits, height, width, packed)
    return cpu.forward(logits, height, width, packed)


@forward.register_fake
def _(logits: Tensor, height: int, width: int, packed: bool) -> Tensor:
    rows = (height + 7) // 8 if packed else height
    return logits.new_empty(logits.shape[0], width, rows, dtype=torch.uint8)


@register_flop_formula(torch.ops.seqformer_kernels.threshold_masks)
def _flops(logits: tuple[int, ...], height: int, width: int, *args: object, **kw: object) -> int:
    return 8 * logits[0] * height * width
