"""Device code of the mask losses: from the gradients of an instance's sums to those of cells.

The gradient of the cells' logits is a quarter of the pixels' (F = 2); the rest is left to the
backward of the head. Letters as in `mask_head/triton_forward.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..mask_head.triton_forward import INPUTS, blend, blend_rows, load_index, row_logits
from .triton_forward import NUMBERS, load_target, miss_and_cost, power


@triton.jit
def pixel_gradient(
    logit, target, inside, d_focal, d_overlap, d_area, ALPHA: tl.constexpr, GAMMA: tl.constexpr
):
    """Gradient of the sums by the logit of a pixel."""
    miss, cost = miss_and_cost(logit, target)
    weight = (1.0 - ALPHA) + (2.0 * ALPHA - 1.0) * target
    slope = weight * power(miss, GAMMA) * (miss + GAMMA * (1.0 - miss) * cost)
    slope = tl.where(target > 0, -slope, slope)
    total = d_focal * slope + miss * (1.0 - miss) * (d_overlap * target + d_area)
    return tl.where(inside, total, 0.0)


@triton.jit(do_not_specialize=NUMBERS, do_not_specialize_on_alignment=INPUTS)
def loss_gradient_kernel(
    features,
    parameters,
    references,
    clip_index,
    targets,
    target_index,
    grad_sums,  # [N, 4]
    grad,  # [N, T, h, w], written: gradient of the logits of cells
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
    CELLS: tl.constexpr,  # that a lane evaluates; with F > 1 the first and the last are not its own
    BP: tl.constexpr,
):
    """The gradient of the logits of cells, from those of the sums of an instance."""
    frame = tl.program_id(0) // tiles
    n = (frame // T).to(tl.int64)
    features += (load_index(clip_index, n, B) * T + frame % T) * C * h * w
    parameters += n * G
    references += frame.to(tl.int64) * 2
    m = load_index(target_index, n, M)
    targets += (m * T + frame % T) * target_h * target_w
    grad += frame.to(tl.int64) * h * w
    d_focal = tl.load(grad_sums + n * 4)
    d_overlap = tl.load(grad_sums + n * 4 + 1)
    d_area = tl.load(grad_sums + n * 4 + 2)

    HALO: tl.constexpr = 1 if F > 1 else 0
    OWN: tl.constexpr = CELLS - 2 * HALO
    lane = (tl.program_id(0) % tiles) * BP + tl.arange(0, BP)
    lanes_per_row = tl.cdiv(w, OWN)
    left = (lane % lanes_per_row) * OWN
    top = (lane // lanes_per_row) * tile_rows
    above = ()
    for _ in tl.static_range(CELLS):
        above += (tl.zeros([BP], tl.float32),)
    upper = ()  # gradients of the row above, nearly complete
    for _ in tl.static_range(OWN):
        upper += (tl.zeros([BP], tl.float32),)
    for i in range(-HALO, tile_rows + 1):
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
        row = top + i
        lower = ()
        for _ in tl.static_range(OWN):
            lower += (tl.zeros([BP], tl.float32),)
        for q in range(1, F + 1):
            upper, lower = add_line_gradient(
                upper, lower, above, below, q, row, left, i >= 0, targets, target_h, target_w,
                target_stride, h, w, d_focal, d_overlap, d_area, ALPHA, GAMMA, F, CELLS,
            )  # fmt: skip
        for c in tl.static_range(OWN):
            owned = (i >= 1) & (row <= h) & (left + c < w)
            tl.store(grad + ((row - 1) * w + left + c), upper[c], mask=owned)
        upper = lower
        above = below


@triton.jit
def add_line_gradient(
    upper,
    lower,
    above,
    below,
    q,
    row,
    left,
    is_owned,
    targets,
    target_h,
    target_w,
    target_stride,
    h,
    w,
    d_focal,
    d_overlap,
    d_area,
    ALPHA: tl.constexpr,
    GAMMA: tl.constexpr,
    F: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Gradients of two rows of cells, `upper` and `lower`, with those of a row of pixels between
    them, q / F of the way down to map row `row`."""
    HALO: tl.constexpr = 1 if F > 1 else 0
    line = blend_rows(above, below, q, F, CELLS)
    y = F * row + (F // 2 - F + 1) + q - 1
    inside_y = is_owned & (y >= 0) & (y < F * h)
    # Beyond the first and the last row, pixels are copies of it alone.
    share_lower = tl.where(row == 0, 1.0, q / F)
    share_upper = tl.where(row == h, 1.0, 1.0 - q / F)
    new_lower = ()
    new_upper = ()
    for c in tl.static_range(CELLS - 2 * HALO):
        total = column_gradient(
            line, c + HALO, left + c, y, inside_y, targets, target_h, target_w, target_stride, w,
            d_focal, d_overlap, d_area, ALPHA, GAMMA, F,
        )  # fmt: skip
        new_lower += (lower[c] + share_lower * total,)
        new_upper += (upper[c] + share_upper * total,)
    return new_upper, new_lower


@triton.jit
def column_gradient(
    line,
    at: tl.constexpr,
    column,
    y,
    inside_y,
    targets,
    target_h,
    target_w,
    target_stride,
    w,
    d_focal,
    d_overlap,
    d_area,
    ALPHA: tl.constexpr,
    GAMMA: tl.constexpr,
    F: tl.constexpr,
):
    """Gradient of cell line[at], in map column `column`, from one row of pixels: those in the gaps
    to its left and to its right."""
    FIRST: tl.constexpr = F // 2 - F + 1
    total = tl.zeros(column.shape, tl.float32)
    for p in tl.static_range(1, F + 1):
        x = F * column + FIRST + p - 1
        inside = inside_y & (x >= 0) & (x < F * w)
        target = load_target(targets, y, x, inside, target_h, target_w, target_stride)
        if F == 1:
            total += pixel_gradient(
                line[at], target, inside, d_focal, d_overlap, d_area, ALPHA, GAMMA
            )
        else:
            logit = blend(line[at - 1], line[at], p, F)
            slope = pixel_gradient(logit, target, inside, d_focal, d_overlap, d_area, ALPHA, GAMMA)
            total += tl.where(column == 0, 1.0, p / F) * slope
    for p in tl.static_range(1, F):
        x = F * (column + 1) + FIRST + p - 1
        inside = inside_y & (x >= 0) & (x < F * w)
        target = load_target(targets, y, x, inside, target_h, target_w, target_stride)
        logit = blend(line[at], line[at + 1], p, F)
        slope = pixel_gradient(logit, target, inside, d_focal, d_overlap, d_area, ALPHA, GAMMA)
        total += tl.where(column == w - 1, 1.0, 1.0 - p / F) * slope
    return total
