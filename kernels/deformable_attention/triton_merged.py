"""Backward of deformable attention with the adds of neighbouring samples merged before L2.

Letters and layout of a row: `triton_forward.py`; the formulas: `triton_backward.py`.

`backward_kernel` adds 64 vectors a row to memory, and reads as many. Here the samples are sorted by
the cell that their north-west corner falls on. Samples of one cell share all four corners: whoever
walks over them reads the corners once, adds in registers, and adds to memory once.

    count_kernel    counts the samples of each cell by integer atomics, whose answer is the rank
                    of a sample in its cell
    offset_kernel   sums the counts: where the samples of a cell begin
    scatter_kernel  writes the record of each sample to its sorted place
    merge_kernel    walks over the records: all gradients but that of the softmax
    softmax_kernel  turns gradients of attention weights into those of logits, in place

Every sample makes a record, also where it reads zero. So a segment, the samples of one (image,
head, level), has Q * P records, and nothing but the offsets within a segment depends on the data.

    counts   [I, M, S] int32, zero on entry; offsets later
    ranks    [B, M, L, Q * P] int32, in the memory that gradients of weights take later
    records  [I, M, L, Q * P, 4] int32: q * P + p, and the bits of x, y and attention weight

I counts the images of a launch, which begin at `first_image`.

A *stream* of LANES lanes walks over RUN records in a row. It adds to memory where the cell changes
and at its end. Lanes hold VECTORS vectors of VEC channels; neighbouring streams take the vectors in
another order (`_channel`), so that eight lanes ask for different quarters of their lines.

Weights of zero are multiplied here, too: a gradient of the output that is no number reaches all
four corners of its samples.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_backward import _over_lanes, keep, put
from .triton_forward import (
    BOXES,
    FAR,
    LOCATIONS,
    corners,
    hat,
    level_size,
    line,
    pick,
    shared,
    steps,
)
from .triton_sort import level_of


@triton.jit
def _column(record, k: tl.constexpr):
    """Column k of whole numbers [R, 4], [R, 1]."""
    return tl.sum(tl.where(tl.arange(0, 4)[None, :] == k, record, 0), axis=1, keep_dims=True)


@triton.jit
def _channel(number, lane, k, VECTORS: tl.constexpr, LANES: tl.constexpr, VEC: tl.constexpr):
    """First channel of vector k. Streams with neighbouring numbers begin with different ones."""
    return ((k ^ (number % VECTORS)) * LANES + lane) * VEC


@triton.jit
def _read(pointers, offset, VECTORS: tl.constexpr):
    """Vectors [R, VEC], as float32."""
    vectors = (tl.load(pointers[0] + offset).to(tl.float32),)
    for k in tl.static_range(1, VECTORS):
        vectors += (tl.load(pointers[k] + offset).to(tl.float32),)
    return vectors


@triton.jit
def _renew(pointer, mask, old):
    """A vector, read anew where the mask says so."""
    if pointer.dtype.element_ty == tl.float32:
        return tl.load(pointer, mask=mask, other=old)
    return tl.where(mask, tl.load(pointer, mask=mask, other=0.0).to(tl.float32), old)


@triton.jit
def _renewed(pointers, offset, mask, old, VECTORS: tl.constexpr):
    vectors = (_renew(pointers[0] + offset, mask, old[0]),)
    for k in tl.static_range(1, VECTORS):
        vectors += (_renew(pointers[k] + offset, mask, old[k]),)
    return vectors


@triton.jit
def _grow(sums, share, grads, VECTORS: tl.constexpr):
    """Sums with share * gradient added."""
    vectors = (sums[0] + share * grads[0],)
    for k in tl.static_range(1, VECTORS):
        vectors += (sums[k] + share * grads[k],)
    return vectors


@triton.jit
def _clear(mask, sums, VECTORS: tl.constexpr):
    vectors = (tl.where(mask, 0.0, sums[0]),)
    for k in tl.static_range(1, VECTORS):
        vectors += (tl.where(mask, 0.0, sums[k]),)
    return vectors


@triton.jit
def _along(from_low, at_low, at_high, step, WIDE: tl.constexpr):
    """`along` of the other backward, for samples that lie less than a cell before the low one."""
    if not WIDE:
        at_high = tl.where(step < FAR, at_high, 0.0)
    right = tl.where(from_low < 1.0, at_high - at_low, tl.where(from_low < 2.0, -at_high, 0.0))
    return tl.where(from_low < 0.0, at_low, right)


@triton.jit
def _dot(grads, corner, VECTORS: tl.constexpr):
    """<gradient, corner> over the channels that a lane holds, [R, 1]."""
    products = grads[0] * corner[0]
    for k in tl.static_range(1, VECTORS):
        products += grads[k] * corner[k]
    return tl.sum(products, axis=1, keep_dims=True)


@triton.jit
def _add(
    pointers, offset, sums, mask, VECTORS: tl.constexpr, VEC: tl.constexpr, SCALAR: tl.constexpr
):
    """Add vectors to memory, or number by number: left to itself, the compiler would give them to
    other lanes first."""
    for k in tl.static_range(VECTORS):
        pointer = pointers[k] + offset
        if SCALAR:
            for v in tl.static_range(VEC):
                tl.atomic_add(pointer + v, pick(sums[k], v), mask=mask, sem="relaxed")
        else:
            column = tl.arange(0, VEC)[None, :]
            tl.atomic_add(pointer + column, sums[k], mask=mask, sem="relaxed")


@triton.jit(
    do_not_specialize=["Q", "S", "share_reference", "share_valid", "first_image"],
    do_not_specialize_on_alignment=["valid"],
)
def merge_kernel(
    value,  # inputs as in forward_kernel
    reference,
    valid,
    grad_output,  # [B, Q, M, D]
    records,
    grad_value,  # [B, S, M, D] float32; zero on entry
    grad_points,  # [B, Q, M, L, P, 2] float32
    grad_weights,  # [B, Q, M, L, P] float32: of attention weights
    levels,
    Q,
    S,
    share_reference,
    share_valid,
    first_image,
    M: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    KIND: tl.constexpr,
    HAS_VALID: tl.constexpr,
    NARROW: tl.constexpr,
    STREAMS: tl.constexpr,
    RUN: tl.constexpr,
    VECTORS: tl.constexpr,
    LANES: tl.constexpr,
    VEC: tl.constexpr,
    SCALAR: tl.constexpr,  # add number by number
):
    """The grid is (blocks of streams, heads x levels, images)."""
    r = tl.arange(0, STREAMS * LANES)[:, None]
    stream, lane = r // LANES, r % LANES
    head, level = tl.program_id(1) // L, tl.program_id(1) % L
    slot = tl.program_id(2)
    image = (first_image + slot).to(tl.int64)
    WIDE: tl.constexpr = not (NARROW or HAS_VALID)
    code, start = level_of(levels, level, L)
    if HAS_VALID:
        valid += shared(first_image + slot, share_valid) * (L * 2)
    height, width, valid_height, valid_width = level_size(code, valid, level, HAS_VALID, False)
    # Of locations, whatever the kind: only bounds and steps are asked for.
    wide, _, last_x, step_x = line(valid, 0, width, valid_width, P, LOCATIONS, WIDE)
    high, _, last_y, step_y = line(valid, 1, height, valid_height, P, LOCATIONS, WIDE)
    if KIND == BOXES:
        first = shared(first_image + slot, share_reference).to(tl.int64) * Q * (L * KIND)
        reference += first + level * KIND
    right, down = steps(height, width, M * D, NARROW)

    column = tl.arange(0, VEC)[None, :]
    first_cell = (image * S + start) * (M * D) + head * D
    first_row = image * Q * (M * D) + head * D
    channel = _channel(stream, lane, 0, VECTORS, LANES, VEC)
    cells = (value + (first_cell + channel) + column,)
    sums = (grad_value + (first_cell + channel),)
    rows = (grad_output + (first_row + channel) + column,)
    zeros = tl.zeros([STREAMS * LANES, VEC], tl.float32)
    none = (zeros,)
    for k in tl.static_range(1, VECTORS):
        channel = _channel(stream, lane, k, VECTORS, LANES, VEC)
        cells += (value + (first_cell + channel) + column,)
        sums += (grad_value + (first_cell + channel),)
        rows += (grad_output + (first_row + channel) + column,)
        none += (zeros,)
    n = Q * P
    position = (tl.program_id(0) * STREAMS + stream) * RUN
    records += ((slot.to(tl.int64) * M + head) * L + level) * n * 4 + tl.arange(0, 4)[None, :]
    first_sample = image * Q * (M * L * P) + (head * L + level) * P
    grad_points += first_sample * 2
    grad_weights += first_sample

    v_nw, v_ne, v_sw, v_se = none, none, none, none
    g_nw, g_ne, g_sw, g_se = none, none, none, none
    current = tl.full([STREAMS * LANES, 1], -1.0, tl.float32)
    for _ in range(RUN):
        # Beyond the end, the last record again, with nothing to add.
        exists = position < n
        record = tl.load(records + tl.minimum(position, n - 1) * 4)
        position += 1
        index = _column(record, 0).to(tl.uint32)
        x = _column(record, 1).to(tl.float32, bitcast=True)
        y = _column(record, 2).to(tl.float32, bitcast=True)
        weight = tl.where(exists, _column(record, 3).to(tl.float32, bitcast=True), 0.0)
        q = (index // P).to(tl.int32)
        grads = _read(rows, q * (M * D), VECTORS)
        cell_x, from_west, from_east = corners(x, last_x, step_x)
        cell_y, from_north, from_south = corners(y, last_y, step_y)
        cell = cell_y * wide + cell_x
        changed = cell != current
        if tl.max(changed.to(tl.int32)) != 0:
            at = current.to(tl.int32) * (M * D)
            mask = changed & (current >= 0.0)
            _add(sums, at, g_nw, mask, VECTORS, VEC, SCALAR)
            _add(sums, at + right, g_ne, mask, VECTORS, VEC, SCALAR)
            _add(sums, at + down, g_sw, mask, VECTORS, VEC, SCALAR)
            _add(sums, at + (right + down), g_se, mask, VECTORS, VEC, SCALAR)
            g_nw = _clear(changed, g_nw, VECTORS)
            g_ne = _clear(changed, g_ne, VECTORS)
            g_sw = _clear(changed, g_sw, VECTORS)
            g_se = _clear(changed, g_se, VECTORS)
            at = cell.to(tl.int32) * (M * D)
            v_nw = _renewed(cells, at, changed, v_nw, VECTORS)
            v_ne = _renewed(cells, at + right, changed, v_ne, VECTORS)
            v_sw = _renewed(cells, at + down, changed, v_sw, VECTORS)
            v_se = _renewed(cells, at + (right + down), changed, v_se, VECTORS)
            current = tl.where(changed, cell, current)
        west, east, north, south = hat(from_west), hat(from_east), hat(from_north), hat(from_south)
        up, low = weight * north, weight * south
        g_nw = _grow(g_nw, up * west, grads, VECTORS)
        g_ne = _grow(g_ne, up * east, grads, VECTORS)
        g_sw = _grow(g_sw, low * west, grads, VECTORS)
        g_se = _grow(g_se, low * east, grads, VECTORS)
        dot_nw, dot_ne = _dot(grads, v_nw, VECTORS), _dot(grads, v_ne, VECTORS)
        dot_sw, dot_se = _dot(grads, v_sw, VECTORS), _dot(grads, v_se, VECTORS)
        at_west, at_east = north * dot_nw + south * dot_sw, north * dot_ne + south * dot_se
        at_north, at_south = west * dot_nw + east * dot_ne, west * dot_sw + east * dot_se
        d_weight = _over_lanes(west * at_west + east * at_east, LANES)
        d_x = weight * _over_lanes(_along(from_west, at_west, at_east, step_x, WIDE), LANES)
        d_y = weight * _over_lanes(_along(from_north, at_north, at_south, step_y, WIDE), LANES)
        owns = exists & (lane == 0)
        if KIND == LOCATIONS:
            d_x, d_y = wide * d_x, high * d_y
        if KIND == BOXES:
            box = reference + q * (L * KIND)
            d_x *= tl.load(box + 2, mask=owns, other=0.0).to(tl.float32) * (wide / (2 * P))
            d_y *= tl.load(box + 3, mask=owns, other=0.0).to(tl.float32) * (high / (2 * P))
        sample = q * (M * L * P) + (index % P).to(tl.int32)
        pair = put(tl.zeros([STREAMS * LANES, 2], tl.float32), 0, d_x)
        keep(grad_points + 2 * sample, put(pair, 1, d_y), owns)
        tl.store(grad_weights + sample, d_weight, mask=owns)
    mask = current >= 0.0
    at = current.to(tl.int32) * (M * D)
    _add(sums, at, g_nw, mask, VECTORS, VEC, SCALAR)
    _add(sums, at + right, g_ne, mask, VECTORS, VEC, SCALAR)
    _add(sums, at + down, g_sw, mask, VECTORS, VEC, SCALAR)
    _add(sums, at + (right + down), g_se, mask, VECTORS, VEC, SCALAR)
