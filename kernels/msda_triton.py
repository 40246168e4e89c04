"""Device code of multi-scale deformable attention: shared pieces and the forward kernel.

Letters
    B images, S tokens, M heads, D channels per head, Q queries, L levels, P points per level.
    A *row* is one (image, query, head): it takes L*P samples, each blended from four cells
    (*corners*) of a level, each a vector of D channels.
    A program handles BQ rows of one image and one head. Its tile is [NA, BQ, LANES, VEC]:
        VEC    neighbouring channels that a lane loads at once,
        LANES  lanes that share a row,
        NA     such vectors per lane, kept in registers;
    channel = na * (LANES * VEC) + lane * VEC + v. What belongs to a row (positions, weights) is
    [1, BQ, LANES, 1]: every lane works it out for itself, and nothing is exchanged. The shapes are
    written out in full because Triton then gives both the same threads; [BQ] vectors would be
    passed around through shared memory.

Position of a sample, in cells of its level, along x (y alike): x = slope * point + base with
    LOCATIONS  slope = W,               base = -0.5           (a point is a share of the level)
    POINTS     slope = 1,               base = ref * W - 0.5  (a point is an offset in cells)
    BOXES      slope = ref_w * W / 2P,  base = ref * W - 0.5  (an offset in 2P-ths of the box)

Reading zero outside costs neither a comparison nor a masked load. The low corner is clamped to
    cell = min(max(floor(x), 0), W - 2),
the high corner is its neighbour, and both are weighted by the hat function max(0, 1 - |x - cell|):
the bilinear weight inside, and zero as soon as the sample is a cell away from the level. A valid
region smaller than the level is the same with its own width; see `_axis` for a width of one.
A corner of weight zero is read all the same (a neighbour inside the level), so that infinity or NaN
there is not hidden.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOCATIONS = tl.constexpr(0)
POINTS = tl.constexpr(2)
BOXES = tl.constexpr(4)
FAR = tl.constexpr(1e30)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def place(pid, Q, M: tl.constexpr, BQ: tl.constexpr, LANES: tl.constexpr):
    """Program number -> image, head, queries per row, and whether the rows exist.

    Query blocks run fastest and images slowest, so that the programs in flight share a few (image,
    head) slices of value, which stay in cache. Rows past the end repeat the last query.
    """
    blocks = tl.cdiv(Q, BQ)
    each_lane = tl.zeros([1, 1, LANES, 1], tl.int32)
    q = (pid % blocks) * BQ + tl.arange(0, BQ)[None, :, None, None] + each_lane
    head = (pid // blocks) % M
    image = pid // (blocks * M)
    return image, head, tl.minimum(q, Q - 1), q < Q


@triton.jit
def largest_logit(weights, exists, L: tl.constexpr, P: tl.constexpr):
    """Of each row, times log2 e: a weight is exp2(logit * log2 e - largest), up to the total."""
    largest = tl.full(exists.shape, float("-inf"), tl.float32)
    for level in range(L):
        for p in tl.static_range(P):
            largest = tl.maximum(largest, tl.load(weights + level * P + p).to(tl.float32))
    return largest * LOG2_E


@triton.jit
def channels(NA: tl.constexpr, LANES: tl.constexpr, VEC: tl.constexpr, lane_stride):
    """Channel numbers in two parts: [1, 1, LANES, VEC] of the lane, [NA, 1, 1, 1] of its vectors,
    which are constants and end up inside the load instructions."""
    lane = tl.arange(0, LANES)[None, None, :, None] * lane_stride
    lane += tl.arange(0, VEC)[None, None, None, :]
    return lane, tl.arange(0, NA)[:, None, None, None] * (LANES * VEC)


@triton.jit
def level_size(levels, valid, level, HAS_VALID: tl.constexpr):
    """Height, width and first token of a level, then height and width of its valid region."""
    height = tl.load(levels + 3 * level)
    width = tl.load(levels + 3 * level + 1)
    start = tl.load(levels + 3 * level + 2)
    if HAS_VALID:
        valid_height = tl.minimum(tl.load(valid + 2 * level), height)
        valid_width = tl.minimum(tl.load(valid + 2 * level + 1), width)
    else:
        valid_height = height
        valid_width = width
    return height, width, start, valid_height, valid_width


@triton.jit
def line(reference, axis: tl.constexpr, size, valid_size, P: tl.constexpr, KIND: tl.constexpr):
    """What the samples of a level share along an axis.

    Returns: slope and base of a position (see the top); the last low cell; the distance from a low
    cell to the high one. One valid cell has no neighbour: its high corner is as good as infinitely
    far to the right. Where no cell is valid, the sample is as far to the left of both.
    """
    last = tl.maximum(valid_size - 2, 0).to(tl.float32)
    step = tl.where(valid_size > 1, 1.0, FAR)
    size = size.to(tl.float32)
    if KIND == LOCATIONS:
        slope = size
        base = tl.where(valid_size > 0, -0.5, -FAR)
    else:
        at = tl.load(reference + axis).to(tl.float32)
        base = tl.where(valid_size > 0, at * size - 0.5, -FAR)
        if KIND == BOXES:
            slope = tl.load(reference + 2 + axis).to(tl.float32) * (size / (2 * P))
        else:
            slope = 1.0
    return slope, base, last, step


@triton.jit
def corners(x, last, step):
    """The low cell of a position (a whole number inside the level, as float), and how far the
    position lies from the low and from the high cell. NaN gives the first cell and weight zero."""
    cell = tl.minimum(tl.maximum(tl.floor(x), 0.0), last)
    return cell, x - cell, (x - cell) - step


@triton.jit
def hat(distance):
    """Weight of a cell that is `distance` cells away."""
    return tl.maximum(1.0 - tl.abs(distance), 0.0)


@triton.jit
def element(cell_x, cell_y, width, stride: tl.constexpr, LARGE: tl.constexpr):
    """Elements from the first token of a level to a cell. float32 counts small maps exactly."""
    if LARGE:
        cell = cell_y.to(tl.int64) * width + cell_x.to(tl.int64)
    else:
        cell = (cell_y * width.to(tl.float32) + cell_x).to(tl.int32)
    return cell * stride


@triton.jit
def steps(height, width, stride: tl.constexpr, NARROW: tl.constexpr):
    """Elements from a cell to its right and lower neighbour; 0 where the level has none. Only with
    NARROW may a level be one cell wide; without, the step is a constant of the load instruction."""
    right = tl.minimum(width - 1, 1) * stride if NARROW else stride
    return right, tl.minimum(height - 1, 1) * width * stride


@triton.jit
def read(pointer, mask, WHOLE: tl.constexpr):
    """Vectors of channels; `mask` matters only where the tile has more channels than D."""
    if WHOLE:
        return tl.load(pointer)
    return tl.load(pointer, mask=mask, other=0)


@triton.jit
def _blend(even, odd, share, pointer, mask, WHOLE: tl.constexpr, PAIRED: tl.constexpr):
    """Add share * vector. Two bf16 read as one word are a shift and a mask away from two floats,
    cheaper than the conversion; channels of even and of odd number then have an accumulator each.
    Unpaired, all are in `even`."""
    vector = read(pointer, mask, WHOLE)
    if PAIRED:
        even += share * (vector << 16).to(tl.float32, bitcast=True)
        odd += share * (vector & -65536).to(tl.float32, bitcast=True)
    else:
        even += share * vector.to(tl.float32)
    return even, odd


@triton.jit(do_not_specialize=["Q", "S", "share_points", "share_reference", "share_valid"])
def forward_kernel(
    value,  # [B, S, M, D]
    points,  # [B / share_points, Q, M, L, P, 2]
    weights,  # [B / share_points, Q, M, L, P], softmaxed for LOCATIONS, else logits
    reference,  # [B / share_reference, Q, L, KIND], none for LOCATIONS
    valid,  # [B / share_valid, L, 2] int32 (height, width)
    levels,  # [L, 3] int32 (height, width, first token)
    output,  # [B, Q, M, D]
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
    NARROW: tl.constexpr,  # some level is one cell wide
    LARGE: tl.constexpr,  # an image of value needs 64-bit offsets
    PAIRED: tl.constexpr,  # value is bf16 and read as pairs; D and VEC count pairs
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
        largest = largest_logit(weights, exists, L, P)
        total = tl.zeros(exists.shape, tl.float32)
    if HAS_VALID:
        valid += (image // share_valid) * (L * 2)
    lane, vector = channels(NA, LANES, VEC, VEC)
    WHOLE: tl.constexpr = NA * LANES * VEC == D
    real = lane + vector < D
    if PAIRED:
        value = value.to(tl.pointer_type(tl.int32), bitcast=True)
    cells = value + image.to(tl.int64) * S * (M * D) + head * D + lane

    even = tl.zeros([NA, BQ, LANES, VEC], tl.float32)
    odd = tl.zeros([NA, BQ, LANES, VEC], tl.float32)
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
        for p in tl.static_range(P):
            k = level * P + p
            x = slope_x * tl.load(points + 2 * k).to(tl.float32) + base_x
            y = slope_y * tl.load(points + 2 * k + 1).to(tl.float32) + base_y
            weight = tl.load(weights + k).to(tl.float32)
            if KIND != LOCATIONS:
                weight = tl.exp2(weight * LOG2_E - largest)
                total += weight
            cell_x, from_west, from_east = corners(x, last_x, step_x)
            cell_y, from_north, from_south = corners(y, last_y, step_y)
            west, east = hat(from_west), hat(from_east)
            north, south = weight * hat(from_north), weight * hat(from_south)
            upper = level_cells + element(cell_x, cell_y, width, M * D, LARGE) + vector
            lower = upper + down
            even, odd = _blend(even, odd, north * west, upper, real, WHOLE, PAIRED)
            even, odd = _blend(even, odd, north * east, upper + right, real, WHOLE, PAIRED)
            even, odd = _blend(even, odd, south * west, lower, real, WHOLE, PAIRED)
            even, odd = _blend(even, odd, south * east, lower + right, real, WHOLE, PAIRED)
    if KIND != LOCATIONS:
        # The softmax's division, once for all samples of the row.
        even *= 1.0 / total
        odd *= 1.0 / total
    output += image.to(tl.int64) * Q * M * (2 * D if PAIRED else D)
    if PAIRED:
        both = tl.reshape(tl.join(even, odd), [NA, BQ, LANES, 2 * VEC])
        lane, vector = channels(NA, LANES, 2 * VEC, 2 * VEC)
        target = output + (q.to(tl.int64) * M + head) * (2 * D) + (lane + vector)
        mask = exists & (lane + vector < 2 * D)
        tl.store(target, both.to(output.dtype.element_ty), mask=mask)
    else:
        target = output + (q.to(tl.int64) * M + head) * D + (lane + vector)
        tl.store(target, even.to(output.dtype.element_ty), mask=exists & real)
