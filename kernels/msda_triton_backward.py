"""Backward kernel of multi-scale deformable attention. Letters and layout: `msda_triton.py`.

Nothing of the forward pass is kept but its inputs; positions, weights and corners are worked out
again. With g the gradient of a row's output, v_c its corner vectors, a = softmax(logits) (or the
given weights), and a sample's value s = sum_c wy_c wx_c v_c, where wx and wy are hat functions:

    d v_c      += a wy_c wx_c g                       one atomic add per corner and channel
    d a         = <g, s> = sum_c wy_c wx_c <g, v_c>
    d x         = a sum_c wy_c wx'_c <g, v_c>         y alike; wx' is the slope of the hat
    d point_x   = slope_x d x                         x = slope_x point_x + base_x
    d ref_x     = W sum_p d x                         base_x = ref_x W - 0.5
    d ref_w     = W / 2P sum_p point_x d x            BOXES: slope_x = ref_w W / 2P
    d logit     = a (d a - sum over the row of a d a)

So four dot products per sample, <g, v_c>, carry everything. They are first taken over the channels
of a lane, combined to the three sums that are needed, and only these are summed over lanes.

Adding to value is what binds on a GPU, and the layout follows it. Compute capability 9.0 adds four
neighbouring floats of a lane in one instruction (VEC = 4). Earlier ones add one float per lane and
instruction, so there neighbouring lanes take neighbouring channels (VEC = 1), and eight of them
fill a 32-byte sector.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .msda_triton import (
    BOXES,
    LOCATIONS,
    LOG2_E,
    corners,
    element,
    hat,
    largest_logit,
    level_size,
    line,
    place,
    read,
    steps,
)


@triton.jit
def _softmax(weights, exists, L: tl.constexpr, P: tl.constexpr):
    """`largest` and `scale` of each row: a weight is exp2(logit * log2 e - largest) * scale. Rows
    that do not exist weigh nothing, so that they add nothing to value."""
    largest = largest_logit(weights, exists, L, P)
    total = tl.zeros(exists.shape, tl.float32)
    for level in range(L):
        for p in tl.static_range(P):
            logit = tl.load(weights + level * P + p).to(tl.float32)
            total += tl.exp2(logit * LOG2_E - largest)
    return largest, tl.where(exists, 1.0 / total, 0.0)


@triton.jit
def _hat_slope(distance):
    """Derivative of `hat`; at its kinks from the right, as floor() has it."""
    falls = tl.where(distance < 0.0, 1.0, -1.0)
    return tl.where((distance >= -1.0) & (distance < 1.0), falls, 0.0)


@triton.jit
def _grad(pointer, channel, exists, D: tl.constexpr):
    """A vector of the output's gradient [R, VEC], zero where there is no row or no channel."""
    return tl.load(pointer + channel, mask=exists & (channel < D), other=0.0).to(tl.float32)


@triton.jit
def _dot(
    a,
    b,
    c,
    d,
    pointer,
    channel,
    D: tl.constexpr,
    NA: tl.constexpr,
    STEP: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """<gradient, corner> over the channels that a lane holds, [R, 1]."""
    products = a * read(pointer, channel, D, WHOLE).to(tl.float32)
    if NA > 1:
        products += b * read(pointer + STEP, channel + STEP, D, WHOLE).to(tl.float32)
    if NA > 2:
        products += c * read(pointer + 2 * STEP, channel + 2 * STEP, D, WHOLE).to(tl.float32)
        products += d * read(pointer + 3 * STEP, channel + 3 * STEP, D, WHOLE).to(tl.float32)
    return tl.sum(products, axis=1, keep_dims=True)


@triton.jit
def _over_lanes(x, LANES: tl.constexpr):
    """Sum over the lanes of a row, on each of them: [R, 1] -> [R, 1]."""
    if LANES == 1:
        return x
    rows: tl.constexpr = x.shape[0] // LANES
    sums = tl.sum(tl.reshape(x, [rows, LANES]), axis=1, keep_dims=True)
    return tl.reshape(tl.broadcast_to(sums, [rows, LANES]), x.shape)


@triton.jit
def _add(
    pointer, share, grad, factor, channel, D: tl.constexpr, WHOLE: tl.constexpr, FIXED: tl.constexpr
):
    part = share * grad
    if FIXED:
        # Whole numbers: their sum does not depend on the order.
        part = (part * factor).to(tl.int64)
    mask = share != 0.0 if WHOLE else (share != 0.0) & (channel < D)
    # Relaxed, and the result unused: a reduction, which nobody waits for.
    tl.atomic_add(pointer, part, mask=mask, sem="relaxed")


@triton.jit
def _scatter(
    a,
    b,
    c,
    d,
    share,
    pointer,
    factor,
    channel,
    D: tl.constexpr,
    NA: tl.constexpr,
    STEP: tl.constexpr,
    WHOLE: tl.constexpr,
    FIXED: tl.constexpr,
):
    """Add share * gradient to a corner."""
    _add(pointer, share, a, factor, channel, D, WHOLE, FIXED)
    if NA > 1:
        _add(pointer + STEP, share, b, factor, channel + STEP, D, WHOLE, FIXED)
    if NA > 2:
        _add(pointer + 2 * STEP, share, c, factor, channel + 2 * STEP, D, WHOLE, FIXED)
        _add(pointer + 3 * STEP, share, d, factor, channel + 3 * STEP, D, WHOLE, FIXED)


@triton.jit(do_not_specialize=["Q", "S", "share_points", "share_reference", "share_valid"])
def backward_kernel(
    value,  # inputs as in forward_kernel
    points,
    weights,
    reference,
    valid,
    levels,
    grad_output,  # [B, Q, M, D]
    fixed_scale,  # [1] float32, FIXED only
    grad_value,  # [B, S, M, D] float32, or int64 if FIXED; zero on entry
    grad_points,  # [B, Q, M, L, P, 2] float32
    grad_weights,  # [B, Q, M, L, P] float32
    grad_reference,  # [B, Q, M, L, KIND] float32, the part of each head
    Q,
    S,
    share_points,
    share_reference,
    share_valid,
    M: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    KIND: tl.constexpr,
    HAS_VALID: tl.constexpr,
    NARROW: tl.constexpr,
    LARGE: tl.constexpr,
    NEEDS_VALUE: tl.constexpr,
    NEEDS_SAMPLES: tl.constexpr,
    NEEDS_REFERENCE: tl.constexpr,  # only with NEEDS_SAMPLES
    FIXED: tl.constexpr,
    BQ: tl.constexpr,
    NA: tl.constexpr,
    LANES: tl.constexpr,
    VEC: tl.constexpr,
):
    image, head, q, exists, lane = place(tl.program_id(0), Q, M, BQ, LANES)
    row = (image // share_points).to(tl.int64) * Q * M + (q * M + head)
    weights += row * (L * P)
    points += row * (L * P * 2)
    if KIND != LOCATIONS:
        reference += ((image // share_reference).to(tl.int64) * Q + q) * (L * KIND)
        largest, scale = _softmax(weights, exists, L, P)
        mean = tl.zeros(exists.shape, tl.float32)
    if HAS_VALID:
        valid += (image // share_valid) * (L * 2)
    own_row = image.to(tl.int64) * Q * M + (q * M + head)
    grad_points += own_row * (L * P * 2)
    grad_weights += own_row * (L * P)
    grad_reference += own_row * (L * KIND)
    STEP: tl.constexpr = LANES * VEC
    WHOLE: tl.constexpr = NA * STEP == D
    channel = lane * VEC + tl.arange(0, VEC)[None, :]
    cells = image.to(tl.int64) * S * (M * D) + head * D + channel
    a = _grad(grad_output + own_row * D, channel, exists, D)
    b, c, d = a, a, a
    if NA > 1:
        b = _grad(grad_output + own_row * D, channel + STEP, exists, D)
    if NA > 2:
        c = _grad(grad_output + own_row * D, channel + 2 * STEP, exists, D)
        d = _grad(grad_output + own_row * D, channel + 3 * STEP, exists, D)
    factor = tl.load(fixed_scale) if FIXED else 1.0

    for level in range(L):
        height, width, start, valid_height, valid_width = level_size(
            levels, valid, level, HAS_VALID
        )
        slope_x, base_x, last_x, step_x = line(
            reference + level * KIND, 0, width, valid_width, P, KIND
        )
        slope_y, base_y, last_y, step_y = line(
            reference + level * KIND, 1, height, valid_height, P, KIND
        )
        right, down = steps(height, width, M * D, NARROW)
        level_cells = cells + start.to(tl.int64) * (M * D)
        moved_x = tl.zeros(exists.shape, tl.float32)
        moved_y = tl.zeros(exists.shape, tl.float32)
        grown_x = tl.zeros(exists.shape, tl.float32)
        grown_y = tl.zeros(exists.shape, tl.float32)
        for p in tl.static_range(P):
            k = level * P + p
            point_x = tl.load(points + 2 * k).to(tl.float32)
            point_y = tl.load(points + 2 * k + 1).to(tl.float32)
            if KIND == LOCATIONS:
                weight = tl.load(weights + k, mask=exists, other=0.0).to(tl.float32)
            else:
                logit = tl.load(weights + k).to(tl.float32)
                weight = tl.exp2(logit * LOG2_E - largest) * scale
            cell_x, from_west, from_east = corners(slope_x * point_x + base_x, last_x, step_x)
            cell_y, from_north, from_south = corners(slope_y * point_y + base_y, last_y, step_y)
            west, east, north, south = (
                hat(from_west),
                hat(from_east),
                hat(from_north),
                hat(from_south),
            )
            nw = level_cells + element(cell_x, cell_y, width, M * D, LARGE)
            ne, sw = nw + right, nw + down
            se = sw + right
            if NEEDS_VALUE:
                up, low = weight * north, weight * south
                g = grad_value
                _scatter(a, b, c, d, up * west, g + nw, factor, channel, D, NA, STEP, WHOLE, FIXED)
                _scatter(a, b, c, d, up * east, g + ne, factor, channel, D, NA, STEP, WHOLE, FIXED)
                _scatter(a, b, c, d, low * west, g + sw, factor, channel, D, NA, STEP, WHOLE, FIXED)
                _scatter(a, b, c, d, low * east, g + se, factor, channel, D, NA, STEP, WHOLE, FIXED)
            if NEEDS_SAMPLES:
                dot_nw = _dot(a, b, c, d, value + nw, channel, D, NA, STEP, WHOLE)
                dot_ne = _dot(a, b, c, d, value + ne, channel, D, NA, STEP, WHOLE)
                dot_sw = _dot(a, b, c, d, value + sw, channel, D, NA, STEP, WHOLE)
                dot_se = _dot(a, b, c, d, value + se, channel, D, NA, STEP, WHOLE)
                at_west, at_east = north * dot_nw + south * dot_sw, north * dot_ne + south * dot_se
                at_north, at_south = west * dot_nw + east * dot_ne, west * dot_sw + east * dot_se
                d_weight = _over_lanes(west * at_west + east * at_east, LANES)
                d_x = _hat_slope(from_west) * at_west + _hat_slope(from_east) * at_east
                d_y = _hat_slope(from_north) * at_north + _hat_slope(from_south) * at_south
                d_x = weight * _over_lanes(d_x, LANES)
                d_y = weight * _over_lanes(d_y, LANES)
                tl.store(grad_points + 2 * k, slope_x * d_x, mask=exists)
                tl.store(grad_points + 2 * k + 1, slope_y * d_y, mask=exists)
                tl.store(grad_weights + k, d_weight, mask=exists)
                if KIND != LOCATIONS:
                    mean += weight * d_weight
                if NEEDS_REFERENCE:
                    moved_x += d_x
                    moved_y += d_y
                    grown_x += point_x * d_x
                    grown_y += point_y * d_y
        if NEEDS_REFERENCE:
            w, h = width.to(tl.float32), height.to(tl.float32)
            target = grad_reference + level * KIND
            tl.store(target, moved_x * w, mask=exists)
            tl.store(target + 1, moved_y * h, mask=exists)
            if KIND == BOXES:
                tl.store(target + 2, grown_x * (w / (2 * P)), mask=exists)
                tl.store(target + 3, grown_y * (h / (2 * P)), mask=exists)
    if NEEDS_SAMPLES and KIND != LOCATIONS:
        # Second pass over the row, now that the mean is known. The barrier makes d(weight) visible,
        # whichever lane has stored it.
        tl.debug_barrier()
        owns = exists & (lane == 0)
        for level in range(L):
            for p in tl.static_range(P):
                k = level * P + p
                logit = tl.load(weights + k).to(tl.float32)
                weight = tl.exp2(logit * LOG2_E - largest) * scale
                d_weight = tl.load(grad_weights + k, mask=owns, other=0.0)
                tl.store(grad_weights + k, weight * (d_weight - mean), mask=owns)
