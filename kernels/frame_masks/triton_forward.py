"""Masks at the size of the frame on the GPU: interpolate, compare and pack in one launch.

Letters: m mask, h x w cells of its logits, H x W pixels of the frame; a program draws BX columns of
a mask, BY bytes of each. Lanes lie along a row of pixels while they read, where neighbours share
cells, and along a column when they write; bytes change lanes in between.
"""

from __future__ import annotations

import triton
import triton.language as tl

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
    """A tile of a mask: whether the logits, blended at each pixel, are above zero."""
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
