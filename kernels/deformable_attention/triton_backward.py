"""Backward kernel of multi-scale deformable attention. Letters and layout: `triton_forward.py`.

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
fill a 32-byte sector. Corners are read four neighbouring channels per lane all the same (SPLIT).

Corners and vectors are loops that carry their address. LLVM unrolls them: the code is that of four
copies. Triton's own passes see one copy, and do not walk over the kernel to find out where such an
address comes from, so that the kernel compiles in a third of the time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_forward import (
    BOXES,
    FAR,
    LOCATIONS,
    LOG2_E,
    corners,
    element,
    fours,
    hat,
    level_size,
    line,
    pick,
    place,
    read,
    scaled_logits,
    shared,
    steps,
    to_lanes,
)


@triton.jit
def put(numbers, k: tl.constexpr, column):
    """The numbers [R, F] with another column k."""
    return tl.where(tl.arange(0, numbers.shape[1])[None, :] == k, column, numbers)


@triton.jit
def keep(pointer, numbers, owns):
    """Store F neighbouring numbers of each row, from one of its lanes."""
    tl.store(pointer + tl.arange(0, numbers.shape[1])[None, :], numbers, mask=owns)


@triton.jit
def _along(from_low, at_low, at_high, step, WIDE: tl.constexpr):
    """Derivative of hat(from_low) * at_low + hat(from_low - step) * at_high by the position; at
    the kinks from the right, as floor() has it. There is no high cell where step is FAR."""
    if not WIDE:
        at_high = tl.where(step < FAR, at_high, 0.0)
    right = tl.where(from_low < 1.0, at_high - at_low, tl.where(from_low < 2.0, -at_high, 0.0))
    return tl.where(from_low < 0.0, tl.where(from_low >= -1.0, at_low, 0.0), right)


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
    VECTORS: tl.constexpr,
    STEP: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """<gradient, corner> over the channels that a lane holds, [R, 1]."""
    products = a * read(pointer, channel, D, WHOLE).to(tl.float32)
    if VECTORS > 1:
        products += b * read(pointer + STEP, channel + STEP, D, WHOLE).to(tl.float32)
    if VECTORS > 2:
        products += c * read(pointer + 2 * STEP, channel + 2 * STEP, D, WHOLE).to(tl.float32)
        products += d * read(pointer + 3 * STEP, channel + 3 * STEP, D, WHOLE).to(tl.float32)
    return tl.sum(products, axis=1, keep_dims=True)


@triton.jit
def _over_lanes(x, LANES: tl.constexpr):
    """Sum over the lanes of a row, on each of them: [R, 1] -> [R, 1]."""
    if LANES == 1:
        return x
    sums = tl.sum(tl.reshape(x, [x.shape[0] // LANES, LANES]), axis=1, keep_dims=True)
    return to_lanes(sums, LANES)


@triton.jit
def _add(
    pointer,
    share,
    grad,
    factor,
    channel,
    D: tl.constexpr,
    WHOLE: tl.constexpr,
    DETERMINISTIC: tl.constexpr,
):
    """Add share * gradient to cells; nothing where the share is zero."""
    part = share * grad
    if DETERMINISTIC:
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
    VECTORS: tl.constexpr,
    STEP: tl.constexpr,
    WHOLE: tl.constexpr,
    DETERMINISTIC: tl.constexpr,
):
    """Add share * gradient to a corner, vector by vector."""
    if VECTORS == 1:
        _add(pointer, share, a, factor, channel, D, WHOLE, DETERMINISTIC)
    else:
        for n in range(VECTORS):
            grad = tl.where(n == 0, a, b)
            if VECTORS > 2:
                grad = tl.where(n < 2, grad, tl.where(n == 2, c, d))
            _add(pointer, share, grad, factor, channel + n * STEP, D, WHOLE, DETERMINISTIC)
            pointer += STEP


@triton.jit(
    do_not_specialize=["Q", "S", "share_points", "share_reference", "share_valid"],
    do_not_specialize_on_alignment=["valid"],
)
def backward_kernel(
    value,  # inputs as in forward_kernel
    points,
    weights,
    reference,
    valid,
    grad_output,  # [B, Q, M, D]
    fixed_scale,  # [1] float32, DETERMINISTIC only
    grad_value,  # [B, S, M, D] float32, or int64 if DETERMINISTIC; zero on entry
    grad_points,  # [B, Q, M, L, P, 2] float32
    grad_weights,  # [B, Q, M, L, P] float32
    grad_reference,  # [B, Q, M, L, KIND] float32, the part of each head
    levels,
    Q,
    S,
    share_points,
    share_reference,
    share_valid,
    M: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    F: tl.constexpr,
    SAMPLES: tl.constexpr,
    KIND: tl.constexpr,
    HAS_VALID: tl.constexpr,
    NARROW: tl.constexpr,
    LARGE: tl.constexpr,
    NEEDS_VALUE: tl.constexpr,
    NEEDS_SAMPLES: tl.constexpr,
    NEEDS_REFERENCE: tl.constexpr,  # only with NEEDS_SAMPLES
    DETERMINISTIC: tl.constexpr,
    BQ: tl.constexpr,
    HEADS: tl.constexpr,
    VECTORS: tl.constexpr,
    LANES: tl.constexpr,
    VEC: tl.constexpr,
    SPLIT: tl.constexpr,  # lanes read four channels each, and add one channel at a time
):
    """All gradients of a block of rows; that of value is added to memory."""
    image, head, q, exists, lane = place(Q, M, BQ, HEADS, LANES)
    if HAS_VALID:
        valid += shared(image, share_valid) * (L * 2)
    if KIND != LOCATIONS:
        logits, largest = scaled_logits(weights, Q, share_points, M, L, P, BQ, HEADS, SAMPLES)
        softmax = tl.exp2(logits - largest)
        scale = 1.0 / tl.sum(softmax, axis=1, keep_dims=True)
        softmax *= scale
        largest = to_lanes(largest, LANES)
        # Rows that do not exist weigh nothing, so that they add nothing to value.
        scale = tl.where(exists, to_lanes(scale, LANES), 0.0)
        reference += (shared(image, share_reference).to(tl.int64) * Q + q) * (L * KIND)
    row = shared(image, share_points).to(tl.int64) * Q * M + (q * M + head)
    weights += row * (L * P)
    points += row * (L * P * 2)
    own_row = image.to(tl.int64) * Q * M + (q * M + head)
    grad_points += own_row * (L * P * 2)
    row_weights = grad_weights + own_row * (L * P)
    grad_reference += own_row * (L * KIND)
    PAIR: tl.constexpr = 2 if F == 1 else 4  # numbers of points that one load takes
    STEP: tl.constexpr = LANES * VEC
    WHOLE: tl.constexpr = VECTORS * STEP == D
    WIDE: tl.constexpr = not (NARROW or HAS_VALID)
    channel = lane * VEC + tl.arange(0, VEC)[None, :]
    cells = image.to(tl.int64) * S * (M * D) + head * D
    grad_output += own_row * D
    a = _grad(grad_output, channel, exists, D)
    b, c, d = a, a, a
    if VECTORS > 1:
        b = _grad(grad_output, channel + STEP, exists, D)
    if VECTORS > 2:
        c = _grad(grad_output, channel + 2 * STEP, exists, D)
        d = _grad(grad_output, channel + 3 * STEP, exists, D)
    # What is read: the same channels, shared out among the lanes of a row in another way.
    READ_VEC: tl.constexpr = 4 if SPLIT else VEC
    READ_VECTORS: tl.constexpr = 1 if SPLIT else VECTORS
    READ_STEP: tl.constexpr = LANES * READ_VEC
    read_channel = lane * READ_VEC + tl.arange(0, READ_VEC)[None, :]
    ra, rb, rc, rd = a, b, c, d
    if SPLIT:
        ra = _grad(grad_output, read_channel, exists, D)
        rb, rc, rd = ra, ra, ra
    grad_cells = grad_value + (cells + channel)
    cells = value + (cells + read_channel)
    factor = tl.load(fixed_scale) if DETERMINISTIC else 1.0
    owns = exists & (lane == 0)

    start = 0  # first token of the level
    for level in range(L):
        height, width, valid_height, valid_width = level_size(
            levels[0], valid, level, HAS_VALID, LARGE
        )
        levels = levels[1:] + levels[:1]
        slope_x, base_x, last_x, step_x = line(
            reference + level * KIND, 0, width, valid_width, P, KIND, WIDE
        )
        slope_y, base_y, last_y, step_y = line(
            reference + level * KIND, 1, height, valid_height, P, KIND, WIDE
        )
        right, down = steps(height, width, M * D, NARROW)
        first = tl.cast(start, tl.int64) * (M * D)
        moved_x = tl.zeros(exists.shape, tl.float32)
        moved_y = tl.zeros(exists.shape, tl.float32)
        grown_x = tl.zeros(exists.shape, tl.float32)
        grown_y = tl.zeros(exists.shape, tl.float32)
        for p in tl.static_range(P):
            k = level * P + p
            if p % F == 0:
                given = fours(weights + k, F)
                d_given = tl.zeros([exists.shape[0], F], tl.float32)
            if 2 * p % PAIR == 0:
                pair = fours(points + 2 * k, PAIR)
                d_pair = tl.zeros([exists.shape[0], PAIR], tl.float32)
            point_x, point_y = pick(pair, 2 * p % PAIR), pick(pair, (2 * p + 1) % PAIR)
            if KIND == LOCATIONS:
                weight = tl.where(exists, pick(given, p % F), 0.0)
            else:
                weight = tl.exp2(pick(given, p % F) * LOG2_E - largest) * scale
            cell_x, from_west, from_east = corners(slope_x * point_x + base_x, last_x, step_x)
            cell_y, from_north, from_south = corners(slope_y * point_y + base_y, last_y, step_y)
            west, east, north, south = (
                hat(from_west),
                hat(from_east),
                hat(from_north),
                hat(from_south),
            )
            cell = first + element(cell_x, cell_y, width, M * D, LARGE)
            if NEEDS_VALUE:
                to_row = grad_cells + cell
                for is_south in range(2):
                    row_share = weight * tl.where(is_south == 0, north, south)
                    to = to_row
                    for is_east in range(2):
                        share = row_share * tl.where(is_east == 0, west, east)
                        _scatter(
                            a, b, c, d, share, to, factor, channel,
                            D, VECTORS, STEP, WHOLE, DETERMINISTIC,
                        )  # fmt: skip
                        to += right
                    to_row += down
            if NEEDS_SAMPLES:
                at_row = cells + cell
                at_west = tl.full(exists.shape, -0.0, tl.float32)
                at_east, at_north, at_south = at_west, at_west, at_west
                for is_south in range(2):
                    along_y = tl.where(is_south == 0, north, south)
                    at = at_row
                    at_y = tl.full(exists.shape, -0.0, tl.float32)
                    for is_east in range(2):
                        dot = _dot(
                            ra, rb, rc, rd, at, read_channel, D, READ_VECTORS, READ_STEP, WHOLE
                        )
                        at += right
                        at_y += tl.where(is_east == 0, west, east) * dot
                        at_west += tl.where(is_east == 0, along_y * dot, -0.0)
                        at_east += tl.where(is_east == 0, -0.0, along_y * dot)
                    at_row += down
                    at_north += tl.where(is_south == 0, at_y, -0.0)
                    at_south += tl.where(is_south == 0, -0.0, at_y)
                d_weight = _over_lanes(west * at_west + east * at_east, LANES)
                d_x = weight * _over_lanes(_along(from_west, at_west, at_east, step_x, WIDE), LANES)
                d_y = weight * _over_lanes(
                    _along(from_north, at_north, at_south, step_y, WIDE), LANES
                )
                d_pair = put(d_pair, 2 * p % PAIR, slope_x * d_x)
                d_pair = put(d_pair, (2 * p + 1) % PAIR, slope_y * d_y)
                d_given = put(d_given, p % F, d_weight)
                if 2 * (p + 1) % PAIR == 0:
                    keep(grad_points + (2 * (k + 1) - PAIR), d_pair, owns)
                if (p + 1) % F == 0:
                    keep(row_weights + (k + 1 - F), d_given, owns)
                if NEEDS_REFERENCE:
                    moved_x += d_x
                    moved_y += d_y
                    grown_x += point_x * d_x
                    grown_y += point_y * d_y
        start += height * width
        if NEEDS_REFERENCE:
            w, h = width.to(tl.float32), height.to(tl.float32)
            target = grad_reference + level * KIND
            tl.store(target, moved_x * w, mask=owns)
            tl.store(target + 1, moved_y * h, mask=owns)
            if KIND == BOXES:
                tl.store(target + 2, grown_x * (w / (2 * P)), mask=owns)
                tl.store(target + 3, grown_y * (h / (2 * P)), mask=owns)
    if NEEDS_SAMPLES and KIND != LOCATIONS:
        # Second pass, a few samples for each lane. The first barrier makes d(weight) visible,
        # whoever has stored it. The second is for small tiles, where lanes without work of their
        # own repeat the loads of others: they must not read what these store.
        tl.debug_barrier()
        image, head, q, exists, _ = place(Q, M, BQ, HEADS, 1)
        sample = tl.arange(0, SAMPLES)[None, :]
        grad_weights += (image.to(tl.int64) * Q * M + (q * M + head)) * (L * P) + sample
        mask = exists & (sample < L * P)
        d_weights = tl.load(grad_weights, mask=mask, other=0.0)
        tl.debug_barrier()
        mean = tl.sum(softmax * d_weights, axis=1, keep_dims=True)
        tl.store(grad_weights, softmax * (d_weights - mean), mask=mask)
