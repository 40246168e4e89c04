"""Masks at the size of the frame on the GPU: interpolate, compare and pack in one launch.

Letters: m mask, h x w cells of its logits, H x W pixels of the frame; a program draws BX columns of
a mask, BY bytes of each. Lanes lie along a row of pixels while they read, where neighbours share
cells, and along a column when they write; bytes change lanes in between.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import Case, Variant, launch_of, pointer_type

COLUMNS, BYTES = 32, 32
"""BX and BY."""


@triton.jit
def source(pixel, cells, pixels):
    """Along an axis: the cells that a pixel lies between, and the weight of the second."""
    scale = tl.math.div_rn(cells.to(tl.float32), pixels.to(tl.float32))
    position = tl.maximum((pixel.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    low = tl.minimum(tl.floor(position).to(tl.int32), cells - 1)
    return low, tl.minimum(low + 1, cells - 1), position - low.to(tl.float32)


@triton.jit(
    do_not_specialize=["h", "w", "H", "W", "rows", "tiles"],
    do_not_specialize_on_alignment=["logits"],
)
def threshold_kernel(
    logits,  # [M, h, w]
    masks,  # [M, W, rows]
    h,
    w,
    H,
    W,
    rows,  # bytes of a column
    tiles,  # programs per mask
    PACKED: tl.constexpr,
    BX: tl.constexpr,
    BY: tl.constexpr,
):
    m = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    tiles_y = tl.cdiv(rows, BY)
    x = (tile // tiles_y) * BX + tl.arange(0, BX)[None, :]
    row = (tile % tiles_y) * BY + tl.arange(0, BY)[:, None]
    logits += m * h * w
    left, right, share_x = source(tl.minimum(x, W - 1), w, W)
    value = tl.zeros([BY, BX], tl.int32)
    BITS: tl.constexpr = 8 if PACKED else 1
    for bit in tl.static_range(BITS):
        y = row * BITS + bit
        top, bottom, share_y = source(tl.minimum(y, H - 1), h, H)
        upper = tl.load(logits + (top * w + left)).to(tl.float32) * (1.0 - share_x)
        upper += tl.load(logits + (top * w + right)).to(tl.float32) * share_x
        lower = tl.load(logits + (bottom * w + left)).to(tl.float32) * (1.0 - share_x)
        lower += tl.load(logits + (bottom * w + right)).to(tl.float32) * share_x
        is_set = (upper * (1.0 - share_y) + lower * share_y > 0) & (y < H)
        value |= is_set.to(tl.int32) << bit
    target = masks + m * W * rows + (x * rows + row)
    tl.store(target, value.to(tl.uint8), mask=(x < W) & (row < rows))


def threshold_masks_triton(logits: Tensor, height: int, width: int, packed: bool) -> Tensor:
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
        lambda _: threshold_variant(logits.dtype, packed),
        tensors,
        numbers,
    )
    launch.run(M * tiles, logits.device, *tensors, *numbers)
    return masks


def threshold_variant(dtype: torch.dtype, packed: bool) -> Variant:
    """How the kernel is compiled."""
    types = {"logits": pointer_type(dtype), "masks": pointer_type(torch.uint8)}
    types |= dict.fromkeys(("h", "w", "H", "W", "rows", "tiles"), "i32")
    constants = {"PACKED": packed, "BX": COLUMNS, "BY": BYTES}
    return Variant(
        kernel=threshold_kernel, types=types, constants=constants, num_warps=4, rows=COLUMNS * BYTES
    )


def compile_cases(capability: int) -> list[Case]:
    """Every launch; the same on all GPUs."""
    return [
        Case(
            name=f"mask threshold {form} {str(dtype).removeprefix('torch.')}",
            variant=threshold_variant(dtype, packed),
        )
        for form, packed in (("bytes", False), ("bits", True))
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    ]
