"""Sorting the samples of deformable attention by the cell that their north-west corner falls on.

The kernels around the walk of `triton_merged.py` over the sorted samples, which says what for and
how memory is laid out. Letters: `triton_forward.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_backward import put
from .triton_forward import (
    LOCATIONS,
    LOG2_E,
    corners,
    fours,
    level_size,
    line,
    pick,
    place,
    shared,
    to_lanes,
)


@triton.jit
def _position(
    points,
    reference,
    sample,
    level,
    height,
    width,
    valid_height,
    valid_width,
    P: tl.constexpr,
    KIND: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Where a sample lies in its level, x and y, and the number of its cell, [R, 1] each. Two
    kernels ask, and get the same bits. A sample that reads nothing to the left or above, or is no
    number, lies two cells behind the last low one: it reads nothing there, either."""
    slope_x, base_x, last_x, step_x = line(
        reference + level * KIND, 0, width, valid_width, P, KIND, WIDE
    )
    slope_y, base_y, last_y, step_y = line(
        reference + level * KIND, 1, height, valid_height, P, KIND, WIDE
    )
    pair = fours(points + 2 * sample, 2)
    x = slope_x * pick(pair, 0) + base_x
    y = slope_y * pick(pair, 1) + base_y
    x = tl.where(x >= -1.0, x, last_x + 2.0)
    y = tl.where(y >= -1.0, y, last_y + 2.0)
    cell_x, _, _ = corners(x, last_x, step_x)
    cell_y, _, _ = corners(y, last_y, step_y)
    return x, y, (cell_y * width.to(tl.float32) + cell_x).to(tl.int32)


@triton.jit(
    do_not_specialize=["Q", "S", "share_points", "share_reference", "share_valid", "first_image"],
    do_not_specialize_on_alignment=["valid"],
)
def count_kernel(
    points,  # inputs as in forward_kernel
    reference,
    valid,
    counts,
    ranks,
    levels,
    Q,
    S,
    share_points,
    share_reference,
    share_valid,
    first_image,
    M: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    KIND: tl.constexpr,
    HAS_VALID: tl.constexpr,
    NARROW: tl.constexpr,
    BQ: tl.constexpr,
    LANES: tl.constexpr,  # of a row, a point each
):
    """Samples of each cell, and the rank of each sample in its cell."""
    slot, head, q, exists, p = place(Q, M, BQ, 1, LANES)
    exists = exists & (p < P)
    p = tl.minimum(p, P - 1)
    image = first_image + slot
    if HAS_VALID:
        valid += shared(image, share_valid) * (L * 2)
    if KIND != LOCATIONS:
        reference += (shared(image, share_reference).to(tl.int64) * Q + q) * (L * KIND)
    points += (shared(image, share_points).to(tl.int64) * Q * M + (q * M + head)) * (L * P * 2)
    part = slot.to(tl.int64) * M + head
    counts += part * S
    ranks += (image.to(tl.int64) * M + head) * (L * P) * Q + (q * P + p)
    WIDE: tl.constexpr = not (NARROW or HAS_VALID)
    start = 0
    for level in range(L):
        height, width, valid_height, valid_width = level_size(
            levels[0], valid, level, HAS_VALID, False
        )
        levels = levels[1:] + levels[:1]
        _, _, cell = _position(
            points,
            reference,
            level * P + p,
            level,
            height,
            width,
            valid_height,
            valid_width,
            P,
            KIND,
            WIDE,
        )
        rank = tl.atomic_add(counts + (start + cell), 1, mask=exists, sem="relaxed")
        tl.store(ranks, rank.to(tl.float32, bitcast=True), mask=exists)
        ranks += Q * P
        start += height * width


@triton.jit
def level_of(levels, level, L: tl.constexpr):
    """Code and first token of a level that only the launch knows."""
    code = levels[0]
    start = 0
    for i in tl.static_range(L - 1):
        height, width, _, _ = level_size(levels[i], levels[i], i, False, False)
        start += tl.where(i < level, height * width, 0)
        code = tl.where(i < level, levels[i + 1], code)
    return code, start


@triton.jit(do_not_specialize=["S"])
def offset_kernel(
    counts,
    levels,
    S,
    L: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The grid is (images x heads, levels)."""
    code, start = level_of(levels, tl.program_id(1), L)
    height, width, _, _ = level_size(code, code, 0, False, False)
    counts += tl.program_id(0).to(tl.int64) * S + start
    total = 0
    for first in range(0, height * width, BLOCK):
        cell = first + tl.arange(0, BLOCK)
        mask = cell < height * width
        count = tl.load(counts + cell, mask=mask, other=0)
        tl.store(counts + cell, total + tl.cumsum(count, 0) - count, mask=mask)
        total += tl.sum(count, 0)


@triton.jit(
    do_not_specialize=["Q", "S", "share_points", "share_reference", "share_valid", "first_image"],
    do_not_specialize_on_alignment=["valid"],
)
def scatter_kernel(
    points,  # inputs as in forward_kernel
    weights,
    reference,
    valid,
    counts,
    ranks,
    records,
    levels,
    Q,
    S,
    share_points,
    share_reference,
    share_valid,
    first_image,
    M: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    SAMPLES: tl.constexpr,
    KIND: tl.constexpr,
    HAS_VALID: tl.constexpr,
    NARROW: tl.constexpr,
    BQ: tl.constexpr,
    LANES: tl.constexpr,
):
    """The record of each sample, written to its place in the order of cells."""
    slot, head, q, exists, p = place(Q, M, BQ, 1, LANES)
    exists = exists & (p < P)
    p = tl.minimum(p, P - 1)
    image = first_image + slot
    if HAS_VALID:
        valid += shared(image, share_valid) * (L * 2)
    row = shared(image, share_points).to(tl.int64) * Q * M
    if KIND != LOCATIONS:
        reference += (shared(image, share_reference).to(tl.int64) * Q + q) * (L * KIND)
        _, heads, queries, _, _ = place(Q, M, BQ, 1, 1)
        softmax, largest = _softmax(
            weights + (row + (queries * M + heads)) * (L * P), L * P, SAMPLES
        )
        scale = to_lanes(1.0 / tl.sum(softmax, axis=1, keep_dims=True), LANES)
        largest = to_lanes(largest, LANES)
    row += q * M + head
    points += row * (L * P * 2)
    weights += row * (L * P)
    part = slot.to(tl.int64) * M + head
    counts += part * S
    ranks += (image.to(tl.int64) * M + head) * (L * P) * Q + (q * P + p)
    records += part * (L * P * 4) * Q
    WIDE: tl.constexpr = not (NARROW or HAS_VALID)
    start = 0
    for level in range(L):
        height, width, valid_height, valid_width = level_size(
            levels[0], valid, level, HAS_VALID, False
        )
        levels = levels[1:] + levels[:1]
        x, y, cell = _position(
            points,
            reference,
            level * P + p,
            level,
            height,
            width,
            valid_height,
            valid_width,
            P,
            KIND,
            WIDE,
        )
        weight = tl.load(weights + (level * P + p)).to(tl.float32)
        if KIND != LOCATIONS:
            weight = tl.exp2(weight * LOG2_E - largest) * scale
        rank = tl.load(ranks, mask=exists, other=0.0).to(tl.int32, bitcast=True)
        at = tl.load(counts + (start + cell), mask=exists, other=0) + rank
        record = tl.zeros([BQ * LANES, 4], tl.int32) + (q * P + p)
        record = put(record, 1, x.to(tl.int32, bitcast=True))
        record = put(record, 2, y.to(tl.int32, bitcast=True))
        record = put(record, 3, weight.to(tl.int32, bitcast=True))
        tl.store(records + at * 4 + tl.arange(0, 4)[None, :], record, mask=exists)
        ranks += Q * P
        records += Q * (P * 4)
        start += height * width


@triton.jit
def _softmax(logits, samples: tl.constexpr, SAMPLES: tl.constexpr):
    """Of rows [R, 1]: exponentials of all samples [R, SAMPLES], zero beyond, and the largest logit
    times log2 e."""
    sample = tl.arange(0, SAMPLES)[None, :]
    scaled = tl.load(logits + sample, mask=sample < samples, other=float("-inf"))
    scaled = scaled.to(tl.float32) * LOG2_E
    largest = tl.max(scaled, axis=1, keep_dims=True)
    return tl.exp2(scaled - largest), largest


@triton.jit(do_not_specialize=["rows", "share_points"])
def softmax_kernel(
    weights,  # [B / share_points, Q, M, L, P]: logits
    grad_weights,  # [B, Q, M, L, P] float32: of the softmax on entry, of logits after
    rows,  # of an image, Q * M
    share_points,
    LP: tl.constexpr,  # L * P
    SAMPLES: tl.constexpr,
    BLOCK: tl.constexpr,  # rows of a program; with SAMPLES, at least its lanes
):
    """The grid is (blocks of rows, 1, images)."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    exists = row < rows
    row = tl.minimum(row, rows - 1)
    image = tl.program_id(2)
    first = shared(image, share_points).to(tl.int64) * rows
    softmax, _ = _softmax(weights + (first + row) * LP, LP, SAMPLES)
    softmax *= 1.0 / tl.sum(softmax, axis=1, keep_dims=True)
    sample = tl.arange(0, SAMPLES)[None, :]
    grad_weights += (image.to(tl.int64) * rows + row) * LP + sample
    mask = exists & (sample < LP)
    grads = tl.load(grad_weights, mask=mask, other=0.0)
    mean = tl.sum(softmax * grads, axis=1, keep_dims=True)
    tl.store(grad_weights, softmax * (grads - mean), mask=mask)
