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
instruction, so neighbouring lanes take neighbouring channels (SCALAR, VEC = 1) and eight of them
fill a 32-byte sector; the compiler is kept from seeing that vectors of four could be loaded, since
it would then move every corner from one layout to the other through shared memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .msda_triton import (
    BOXES,
    LOCATIONS,
    LOG2_E,
    channels,
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
def _dot(a, b):
    """Sum over the channels that a lane holds: [NA, BQ, LANES, VEC] -> [1, BQ, LANES, 1]."""
    return tl.sum(tl.sum(a * b, axis=3, keep_dims=True), axis=0, keep_dims=True)


@triton.jit
def _over_lanes(x):
    """Sum over the lanes of a row, on each of them."""
    return tl.broadcast_to(tl.sum(x, axis=2, keep_dims=True), x.shape)


@triton.jit
def _scatter(pointer, share, grad, fixed_scale, mask, WHOLE: tl.constexpr, FIXED: tl.constexpr):
    """Add share * grad to a cell. In whole numbers (FIXED) the sum does not depend on the order."""
    mask = share != 0.0 if WHOLE else mask & (share != 0.0)
    part = share * grad
    if FIXED:
        part = (part * fixed_scale).to(tl.int64)
    # Relaxed, and the result unused: a reduction, which nobody waits for.
    tl.atomic_add(pointer, part, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=["Q", "S", "share_points", "share_reference", "share_valid", "one"])
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
    one,  # 1, which the compiler must not know
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
    SCALAR: tl.constexpr,
    BQ: tl.constexpr,
    NA: tl.constexpr,
    LANES: tl.constexpr,
    VEC: tl.constexpr,
):
    image, head, q, exists = place(tl.program_id(0), Q, M, BQ, LANES)
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
    lane, vector = channels(NA, LANES, VEC, one * VEC if SCALAR else VEC)
    WHOLE: tl.constexpr = NA * LANES * VEC == D
    real = lane + vector < D
    cells = image.to(tl.int64) * S * (M * D) + head * D + lane
    grad = tl.load(grad_output + own_row * D + (lane + vector), mask=exists & real, other=0.0)
    grad = grad.to(tl.float32)
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
            nw = level_cells + element(cell_x, cell_y, width, M * D, LARGE) + vector
            ne, sw = nw + right, nw + down
            se = sw + right
            if NEEDS_VALUE:
                up, low = weight * north, weight * south
                _scatter(grad_value + nw, up * west, grad, factor, real, WHOLE, FIXED)
                _scatter(grad_value + ne, up * east, grad, factor, real, WHOLE, FIXED)
                _scatter(grad_value + sw, low * west, grad, factor, real, WHOLE, FIXED)
                _scatter(grad_value + se, low * east, grad, factor, real, WHOLE, FIXED)
            if NEEDS_SAMPLES:
                dot_nw = _dot(grad, read(value + nw, real, WHOLE).to(tl.float32))
                dot_ne = _dot(grad, read(value + ne, real, WHOLE).to(tl.float32))
                dot_sw = _dot(grad, read(value + sw, real, WHOLE).to(tl.float32))
                dot_se = _dot(grad, read(value + se, real, WHOLE).to(tl.float32))
                at_west, at_east = north * dot_nw + south * dot_sw, north * dot_ne + south * dot_se
                at_north, at_south = west * dot_nw + east * dot_ne, west * dot_sw + east * dot_se
                d_weight = _over_lanes(west * at_west + east * at_east)
                d_x = _hat_slope(from_west) * at_west + _hat_slope(from_east) * at_east
                d_y = _hat_slope(from_north) * at_north + _hat_slope(from_south) * at_south
                d_x = weight * _over_lanes(d_x)
                d_y = weight * _over_lanes(d_y)
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
        for level in range(L):
            for p in tl.static_range(P):
                k = level * P + p
                logit = tl.load(weights + k).to(tl.float32)
                weight = tl.exp2(logit * LOG2_E - largest) * scale
                d_weight = tl.load(grad_weights + k, mask=exists, other=0.0)
                tl.store(grad_weights + k, weight * (d_weight - mean), mask=exists)
