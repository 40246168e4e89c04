"""Dynamic mask head on the GPU: kernels and launchers, forward and backward.

The forward walks down a strip of rows and carries the last row along, which makes the upsampling a
matter of registers: no shared memory, no exchange between lanes. Letters as in
`dynamic_mask_device.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dynamic_mask_device import (
    blend_rows,
    clip_of,
    grid_logits,
    upsample_line,
)


@triton.jit
def head_forward(
    features,  # [B, T, C, h, w]
    params,  # [N, G]
    references,  # [N, T, 2]
    clip_index,  # [N]
    out,  # [N, T, F*h, F*w]
    G,
    B,
    T,
    h,
    w,
    stride,
    strip,  # rows of cells that a lane walks down
    tiles,  # programs per instance and frame
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    F: tl.constexpr,
    CELLS: tl.constexpr,  # cells of a row that a lane evaluates
    ROWS: tl.constexpr,  # rows that it evaluates at once
    BP: tl.constexpr,
):
    frame = tl.program_id(0) // tiles
    n = (frame // T).to(tl.int64)
    b = clip_of(clip_index, n, B)
    features += (b * T + frame % T) * C * h * w
    params += n * G
    references += frame.to(tl.int64) * 2
    out += frame.to(tl.int64) * (F * h) * (F * w)

    # A pixel belongs to the cell to its lower right. With F = 4, the last row and column have
    # pixels beyond them, in one gap more.
    HALO: tl.constexpr = 1 if F > 1 else 0
    MORE: tl.constexpr = 1 if F > 2 else 0
    FIRST: tl.constexpr = F // 2 - F + 1
    lane = (tl.program_id(0) % tiles) * BP + tl.arange(0, BP)
    lanes_per_row = tl.cdiv(w + MORE, CELLS - HALO)
    left = (lane % lanes_per_row) * (CELLS - HALO)
    top = (lane // lanes_per_row) * strip
    above = ()
    for _ in tl.static_range(CELLS):
        above += (tl.zeros([BP], dtype=tl.float32),)
    for i in range(-ROWS * HALO, strip, ROWS):
        cells = grid_logits(
            features, references, params, top + i, left - HALO, h, w, stride,
            C, D, K, R, ROWS, CELLS,
        )  # fmt: skip
        for r in tl.static_range(ROWS):
            below = cells[r * CELLS : (r + 1) * CELLS]
            for q in tl.static_range(1, F + 1):
                pixels = upsample_line(blend_rows(above, below, q, F, CELLS), F, CELLS)
                y = F * (top + i + r) + FIRST + q - 1
                inside = (i >= 0) & (y >= 0) & (y < F * h)
                for p in tl.static_range(F * (CELLS - HALO)):
                    x = F * left + FIRST + p
                    tl.store(
                        out + (y * (F * w) + x),
                        pixels[p].to(out.dtype.element_ty),
                        mask=inside & (x >= 0) & (x < F * w),
                    )
            above = below
