"""Device code of the mask losses: from features and parameters to sums per instance.

As the forward of the head, but a pixel's logit is used up where it arises: only four sums per
program leave it. Letters as in `mask_head/triton_forward.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..mask_head.triton_forward import (
    INPUTS,
    blend_rows,
    load_index,
    row_logits,
    upsample_line,
)

NUMBERS = [
    *("G", "B", "T", "h", "w", "stride", "tile_rows", "tiles"),
    *("target_h", "target_w", "target_stride", "M", "opaque_zero"),
]
"""Arguments for whose values nothing is compiled anew."""


@triton.jit
def load_target(targets, y, x, inside, target_h, target_w, target_stride):
    """1.0 where the target is set; outside of it, and where not `inside`, 0.0."""
    row = y * target_stride + target_stride // 2
    column = x * target_stride + target_stride // 2
    inside = inside & (row < target_h) & (column < target_w)
    value = tl.load(targets + (row * target_w + column), mask=inside, other=0)
    return (value != 0).to(tl.float32)


@triton.jit
def power(x, GAMMA: tl.constexpr):
    """Power x ** GAMMA for x in 0..1."""
    if GAMMA == 0:
        y = tl.full(x.shape, 1.0, tl.float32)
    elif GAMMA == 1:
        y = x
    elif GAMMA == 2:
        y = x * x
    else:
        y = tl.exp(GAMMA * tl.log(x))
    return y


@triton.jit
def miss_and_cost(logit, target):
    """1 - p_t, the probability given to the wrong answer, and the cross entropy -log p_t."""
    wrong = tl.where(target > 0, -logit, logit)
    small = tl.exp(-tl.abs(wrong))
    miss = tl.where(wrong >= 0, 1.0, small) / (1.0 + small)
    return miss, tl.maximum(wrong, 0.0, propagate_nan=tl.PropagateNan.ALL) + tl.log(1.0 + small)


@triton.jit(do_not_specialize=NUMBERS, do_not_specialize_on_alignment=INPUTS)
def loss_kernel(
    features,  # [B, T, C, h, w]
    parameters,  # [N, G]
    references,  # [N, T, 2]
    clip_index,  # [N]
    targets,  # [M, T, target_h, target_w]
    target_index,  # [N]
    partials,  # [N, T, tiles, 4], written: sums of focal, p * t, p, t
    G,
    B,
    T,
    h,
    w,
    stride,
    tile_rows,
    tiles,
    target_h,
    target_w,
    target_stride,
    M,
    opaque_zero,
    ALPHA: tl.constexpr,
    GAMMA: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    LAYERS: tl.constexpr,
    R: tl.constexpr,
    F: tl.constexpr,
    CELLS: tl.constexpr,
    BP: tl.constexpr,
):
    """Sums of an instance over a block of cells and the pixels that belong to them."""
    frame = tl.program_id(0) // tiles
    n = (frame // T).to(tl.int64)
    features += (load_index(clip_index, n, B) * T + frame % T) * C * h * w
    parameters += n * G
    references += frame.to(tl.int64) * 2
    m = load_index(target_index, n, M)
    targets += (m * T + frame % T) * target_h * target_w

    HALO: tl.constexpr = 1 if F > 1 else 0
    MORE: tl.constexpr = 1 if F > 2 else 0
    FIRST: tl.constexpr = F // 2 - F + 1
    lane = (tl.program_id(0) % tiles) * BP + tl.arange(0, BP)
    lanes_per_row = tl.cdiv(w + MORE, CELLS - HALO)
    left = (lane % lanes_per_row) * (CELLS - HALO)
    top = (lane // lanes_per_row) * tile_rows
    sums = ()
    for _ in tl.static_range(4):
        sums += (tl.zeros([BP], tl.float32),)
    above = ()
    for _ in tl.static_range(CELLS):
        above += (tl.zeros([BP], tl.float32),)
    for i in range(-HALO, tile_rows):
        parameters += opaque_zero
        features += opaque_zero
        below = row_logits(
            features,
            references,
            parameters,
            top + i,
            left - HALO,
            h,
            w,
            stride,
            C,
            D,
            LAYERS,
            R,
            CELLS,
        )
        y = F * (top + i) + FIRST - 1
        for q in range(1, F + 1):
            sums = add_line(
                sums, above, below, q, y + q, left, i >= 0, targets, target_h, target_w,
                target_stride, h, w, ALPHA, GAMMA, F, CELLS,
            )  # fmt: skip
        above = below
    partials += tl.program_id(0).to(tl.int64) * 4
    for s in tl.static_range(4):
        tl.store(partials + s, tl.sum(sums[s]))


@triton.jit
def add_line(
    sums,  # [BP] each: focal, p * t, p, t
    above,
    below,
    q,
    y,
    left,
    is_owned,
    targets,
    target_h,
    target_w,
    target_stride,
    h,
    w,
    ALPHA: tl.constexpr,
    GAMMA: tl.constexpr,
    F: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Sums with the pixels of row y, which is q / F of the way between two rows of cells."""
    HALO: tl.constexpr = 1 if F > 1 else 0
    focal, overlap, area, target_area = sums
    pixels = upsample_line(blend_rows(above, below, q, F, CELLS), F, CELLS)
    inside_y = is_owned & (y >= 0) & (y < F * h)
    for p in tl.static_range(F * (CELLS - HALO)):
        x = F * left + (F // 2 - F + 1) + p
        inside = inside_y & (x >= 0) & (x < F * w)
        target = load_target(targets, y, x, inside, target_h, target_w, target_stride)
        miss, cost = miss_and_cost(pixels[p], target)
        weight = (1.0 - ALPHA) + (2.0 * ALPHA - 1.0) * target
        prob = tl.where(target > 0, 1.0 - miss, miss)
        focal += tl.where(inside, weight * cost * power(miss, GAMMA), 0.0)
        area += tl.where(inside, prob, 0.0)
        overlap += prob * target
        target_area += target
    return focal, overlap, area, target_area
