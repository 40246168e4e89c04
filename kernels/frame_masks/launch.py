"""From logits to launches of the threshold kernel, and the variants it comes in.

Inputs are checked already (`__init__.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..launch import KernelVariant, launch_of, pointer_type
from .triton_forward import BYTES, COLUMNS, threshold_kernel


def forward(logits: Tensor, height: int, width: int, packed: bool) -> Tensor:
    """[M, h, w] -> uint8 [M, W, H], or packed [M, W, ceil(H / 8)]. One launch."""
    M, h, w = logits.shape
    rows = -(-height // 8) if packed else height
    masks = logits.new_empty((M, width, rows), dtype=torch.uint8)
    tiles = -(-width // COLUMNS) * -(-rows // BYTES)
    tensors = (logits.contiguous(), masks)
    numbers = (h, w, height, width, rows, tiles)
    launch = launch_of(
        threshold_kernel,
        packed,
        lambda _: forward_variant(logits.dtype, packed),
        tensors,
        numbers,
    )
    launch.run(M * tiles, logits.device, *tensors, *numbers)
    return masks


def forward_variant(dtype: torch.dtype, packed: bool) -> KernelVariant:
    """How the kernel is compiled."""
    types = {"logits": pointer_type(dtype), "masks": pointer_type(torch.uint8)}
    types |= dict.fromkeys(("h", "w", "H", "W", "rows", "tiles"), "i32")
    constants = {"PACKED": packed, "BX": COLUMNS, "BY": BYTES}
    return KernelVariant(
        kernel=threshold_kernel, types=types, constants=constants, num_warps=4, rows=COLUMNS * BYTES
    )
