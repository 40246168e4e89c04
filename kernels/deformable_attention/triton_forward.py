"""Device code of multi-scale deformable attention: shared pieces and the forward kernel.

Letters
    B images, S tokens, M heads, D channels per head, Q queries, L levels, P points per level.
    A *row* is one (image, query, head): it takes L*P samples, each blended from four cells
    (*corners*) of a level, each a vector of D channels.

Layout
    A program handles BQ queries and HEADS neighbouring heads of one image; the grid is (blocks of
    queries, groups of heads, images). LANES lanes share a row; each works out the row's samples
    for itself, so nothing is exchanged, and holds VECTORS vectors of VEC neighbouring channels:
    channel = n * (LANES * VEC) + lane * VEC + v. VECTORS is written out (at most 4).
    Tensors are [R, VEC], R = BQ * HEADS * LANES, or [R, 1] for what belongs to a row, so that every
    version of Triton gives an entry of R to a lane; other shapes are at times moved through shared
    memory. What is worth exchanging is worked out once per row instead, as [R / LANES, SAMPLES]
    (`scaled_logits`), and given to the lanes (`to_lanes`).
    The numbers of a row are loaded F at a time (`fours`), 16 bytes where P allows: [R, F], of which
    a lane holds all F. Taking a column (`pick`) is then a choice of registers.

Lines
    What L1 delivers in one step is 128 bytes: eight lanes of 16 bytes, of one line or of lines that
    differ in which 32-byte part is wanted. So LANES * VEC channels of a row make a line, and where
    a row is shorter, the next row takes the next head, which lies in the same line at another
    part (HEADS). See docs/kernels.md for what was counted.

Position of a sample, in cells of its level, along x (y alike): x = slope * point + base with
    LOCATIONS  slope = W,               base = -0.5           (a point is a share of the level)
    POINTS     slope = 1,               base = ref * W - 0.5  (a point is an offset in cells)
    BOXES      slope = ref_w * W / 2P,  base = ref * W - 0.5  (an offset in 2P-ths of the box)

Reading zero outside costs neither a comparison nor a masked load. The low corner is clamped to
    cell = min(max(floor(x), 0), W - 2),
the high corner is its neighbour, and both are weighted by the hat function max(0, 1 - |x - cell|):
the bilinear weight inside, and zero as soon as the sample is a cell away from the level. A valid
region smaller than the level is the same with its own width; see `line` for a width of one.
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
def place(Q, M: tl.constexpr, BQ: tl.constexpr, HEADS: tl.constexpr, LANES: tl.constexpr):
    """Of a program -> image, and [R, 1] each: head, query, whether it exists, lane of the row.

    The first axis of the grid runs fastest, so that the programs in flight share a few
    (image, head) slices of value, which stay in cache. Rows past the end repeat the last query.
    """
    r = tl.arange(0, BQ * HEADS * LANES)[:, None]
    q = tl.program_id(0) * BQ + r // (LANES * HEADS)
    head = tl.program_id(1) * HEADS + (r // LANES) % HEADS
    return tl.program_id(2), head, tl.minimum(q, Q - 1), q < Q, r % LANES


@triton.jit
def shared(image, share):
    """Entry image // n of an input that n images in a row share; share = ceil(2^30 / n)."""
    return tl.umulhi(image << 2, share)


@triton.jit
def fours(pointer, F: tl.constexpr):
    """F neighbouring numbers of each row, [R, F], in one load where they lie on F * size bytes."""
    return tl.load(pointer + tl.arange(0, F)[None, :]).to(tl.float32)


@triton.jit
def pick(numbers, k: tl.constexpr):
    """Column k, [R, 1]. Each lane holds all columns, so no instruction is left: x + -0.0 is x."""
    if numbers.shape[1] == 1:
        return numbers
    column = tl.arange(0, numbers.shape[1])[None, :]
    return tl.sum(tl.where(column == k, numbers, -0.0), axis=1, keep_dims=True)


@triton.jit
def to_lanes(x, LANES: tl.constexpr):
    """What belongs to a row, on each of its lanes: [R / LANES, 1] -> [R, 1]."""
    return tl.reshape(tl.broadcast_to(x, [x.shape[0], LANES]), [x.shape[0] * LANES, 1])


@triton.jit
def scaled_logits(
    weights,
    Q,
    share,
    M: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    BQ: tl.constexpr,
    HEADS: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    """Logits of a program's rows times log2 e, each read once, [BQ * HEADS, SAMPLES]; minus
    infinity beyond L * P. And the largest of each row, [BQ * HEADS, 1]."""
    image, head, q, _, _ = place(Q, M, BQ, HEADS, 1)
    row = shared(image, share).to(tl.int64) * Q * M + (q * M + head)
    sample = tl.arange(0, SAMPLES)[None, :]
    logits = tl.load(weights + row * (L * P) + sample, mask=sample < L * P, other=float("-inf"))
    logits = logits.to(tl.float32) * LOG2_E
    return logits, tl.max(logits, axis=1, keep_dims=True)


@triton.jit
def level_size(code, valid, level, HAS_VALID: tl.constexpr, LARGE: tl.constexpr):
    """Height and width of a level, then of its valid region."""
    if LARGE:
        height = (code >> 32).to(tl.int32)
        width = ((code & 0xFFFFFFFF) >> 1).to(tl.int32)
    else:
        height = code >> 16
        width = (code & 0xFFFF) >> 1
    if HAS_VALID:
        valid_height = tl.minimum(tl.load(valid + 2 * level), height)
        valid_width = tl.minimum(tl.load(valid + 2 * level + 1), width)
    else:
        valid_height = height
        valid_width = width
    return height, width, valid_height, valid_width


@triton.jit
def line(
    reference,
    axis: tl.constexpr,
    size,
    valid_size,
    P: tl.constexpr,
    KIND: tl.constexpr,
    WIDE: tl.constexpr,
):
    """What the samples of a level share along an axis.

    Returns: slope and base of a position (see the top); the last low cell; the distance from a low
    cell to the high one. One valid cell has no neighbour: its high corner is as good as infinitely
    far to the right. Where no cell is valid, the sample is as far to the left of both.
    """
    size = size.to(tl.float32)
    if KIND == LOCATIONS:
        slope, base = size, -0.5
    else:
        base = tl.load(reference + axis).to(tl.float32) * size - 0.5
        slope = 1.0
        if KIND == BOXES:
            slope = tl.load(reference + 2 + axis).to(tl.float32) * (size / (2 * P))
    if WIDE:
        return slope, base, size - 2.0, 1.0
    base = tl.where(valid_size > 0, base, -FAR)
    step = tl.where(valid_size > 1, 1.0, FAR)
    return slope, base, tl.maximum(valid_size - 2, 0).to(tl.float32), step


@triton.jit
def corners(x, last, step):
    """The low cell of a position (a whole number inside the level, as float), and how far the
    position lies from the low and from the high cell. NaN gives the first cell and weight zero."""
    cell = tl.minimum(tl.maximum(tl.floor(x), 0.0), last)
    return cell, x - cell, (x - cell) - step


@triton.jit
def hat(distance):
    """Weight of a cell that is `distance` cells away."""
    return tl.clamp(1.0 - tl.abs(distance), 0.0, 1.0)


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
    """Elements from a cell to its right and lower neighbour; 0 where the level has none. Without
    NARROW every level has both, and the first is a constant of the load instruction."""
    if NARROW:
        return tl.minimum(width - 1, 1) * stride, tl.minimum(height - 1, 1) * width * stride
    return stride, width * stride


@triton.jit
def read(pointer, channel, D: tl.constexpr, WHOLE: tl.constexpr):
    """Vectors of channels [R, VEC]; WHOLE says that a row has no channels beyond D."""
    if WHOLE:
        return tl.load(pointer)
    return tl.load(pointer, mask=channel < D, other=0)


@triton.jit
def _even(pair):
    """The first of two bf16 in a word, as float32."""
    return (pair << 16).to(tl.float32, bitcast=True)


@triton.jit
def _odd(pair):
    return (pair & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _blend(
    a,
    b,
    c,
    d,
    share,
    pointer,
    channel,
    D: tl.constexpr,
    VECTORS: tl.constexpr,
    STEP: tl.constexpr,
    WHOLE: tl.constexpr,
    PAIRED: tl.constexpr,
):
    """Add share * corner to the accumulators [R, VEC].

    They are those of vectors 0 to 3; PAIRED, of the even channels of vectors 0 and 1, then of the
    odd ones: two bf16 read as one word are a shift and a mask away from two floats, which is
    cheaper than the conversion.
    """
    first = read(pointer, channel, D, WHOLE)
    if PAIRED:
        a += share * _even(first)
        c += share * _odd(first)
        if VECTORS > 1:
            second = read(pointer + STEP, channel + STEP, D, WHOLE)
            b += share * _even(second)
            d += share * _odd(second)
    else:
        a += share * first.to(tl.float32)
        if VECTORS > 1:
            b += share * read(pointer + STEP, channel + STEP, D, WHOLE).to(tl.float32)
        if VECTORS > 2:
            c += share * read(pointer + 2 * STEP, channel + 2 * STEP, D, WHOLE).to(tl.float32)
            d += share * read(pointer + 3 * STEP, channel + 3 * STEP, D, WHOLE).to(tl.float32)
    return a, b, c, d


@triton.jit
def _store_pairs(output, even, odd, channel, exists, D: tl.constexpr, VEC: tl.constexpr):
    """Even and odd channels side by side; `channel` is that of the first pair, [R, 1]."""
    both = tl.reshape(tl.join(even, odd), [even.shape[0], 2 * VEC])
    channel = 2 * channel + tl.arange(0, 2 * VEC)[None, :]
    tl.store(output + channel, both.to(output.dtype.element_ty), mask=exists & (channel < 2 * D))


@triton.jit
def _store(output, blended, channel, exists, D: tl.constexpr):
    mask = exists & (channel < D)
    tl.store(output + channel, blended.to(output.dtype.element_ty), mask=mask)


@triton.jit(
    do_not_specialize=["Q", "S", "share_points", "share_reference", "share_valid"],
    do_not_specialize_on_alignment=["valid"],
)
def forward_kernel(
    value,  # [B, S, M, D]
    points,  # [B / share_points, Q, M, L, P, 2]
    weights,  # [B / share_points, Q, M, L, P], softmaxed for LOCATIONS, else logits
    reference,  # [B / share_reference, Q, L, KIND], none for LOCATIONS
    valid,  # [B / share_valid, L, 2] int32 (height, width)
    output,  # [B, Q, M, D]
    levels,  # height and width of each level in one number, a tuple (launch)
    Q,
    S,
    share_points,  # for `shared`, as the next two
    share_reference,
    share_valid,
    M: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    F: tl.constexpr,  # logits that one load takes, a divisor of P
    SAMPLES: tl.constexpr,  # L * P, rounded up to a power of two
    KIND: tl.constexpr,
    HAS_VALID: tl.constexpr,
    NARROW: tl.constexpr,  # some level is one cell wide or high
    LARGE: tl.constexpr,  # an image of value needs 64-bit offsets
    PAIRED: tl.constexpr,  # value is bf16 and read as pairs; D and VEC count pairs
    BQ: tl.constexpr,
    HEADS: tl.constexpr,
    VECTORS: tl.constexpr,
    LANES: tl.constexpr,
    VEC: tl.constexpr,
):
    """The output of a block of rows."""
    image, head, q, exists, lane = place(Q, M, BQ, HEADS, LANES)
    if KIND != LOCATIONS:
        _, largest = scaled_logits(weights, Q, share_points, M, L, P, BQ, HEADS, SAMPLES)
        largest = to_lanes(largest, LANES)
        total = tl.zeros(exists.shape, tl.float32)
    row = shared(image, share_points).to(tl.int64) * Q * M + (q * M + head)
    weights += row * (L * P)
    points += row * (L * P * 2)
    if KIND != LOCATIONS:
        reference += (shared(image, share_reference).to(tl.int64) * Q + q) * (L * KIND)
    if HAS_VALID:
        valid += shared(image, share_valid) * (L * 2)
    PAIR: tl.constexpr = 2 if F == 1 else 4  # numbers of points that one load takes
    STEP: tl.constexpr = LANES * VEC
    WHOLE: tl.constexpr = VECTORS * STEP == D
    WIDE: tl.constexpr = not (NARROW or HAS_VALID)  # a cell of a level always has a neighbour
    channel = lane * VEC + tl.arange(0, VEC)[None, :]
    if PAIRED:
        value = value.to(tl.pointer_type(tl.int32), bitcast=True)
    cells = value + image.to(tl.int64) * S * (M * D) + head * D + channel

    a = tl.zeros(channel.shape, tl.float32)
    b = tl.zeros(channel.shape, tl.float32)
    c = tl.zeros(channel.shape, tl.float32)
    d = tl.zeros(channel.shape, tl.float32)
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
        level_cells = cells + tl.cast(start, tl.int64) * (M * D)
        for p in tl.static_range(P):
            k = level * P + p
            if p % F == 0:
                given = fours(weights + k, F)
            if 2 * p % PAIR == 0:
                pair = fours(points + 2 * k, PAIR)
            x = slope_x * pick(pair, 2 * p % PAIR) + base_x
            y = slope_y * pick(pair, (2 * p + 1) % PAIR) + base_y
            weight = pick(given, p % F)
            if KIND != LOCATIONS:
                weight = tl.exp2(weight * LOG2_E - largest)
                total += weight
            cell_x, from_west, from_east = corners(x, last_x, step_x)
            cell_y, from_north, from_south = corners(y, last_y, step_y)
            west, east = hat(from_west), hat(from_east)
            north, south = weight * hat(from_north), weight * hat(from_south)
            nw = level_cells + element(cell_x, cell_y, width, M * D, LARGE)
            sw = nw + down
            a, b, c, d = _blend(
                a, b, c, d, north * west, nw, channel, D, VECTORS, STEP, WHOLE, PAIRED
            )
            a, b, c, d = _blend(
                a, b, c, d, north * east, nw + right, channel, D, VECTORS, STEP, WHOLE, PAIRED
            )
            a, b, c, d = _blend(
                a, b, c, d, south * west, sw, channel, D, VECTORS, STEP, WHOLE, PAIRED
            )
            a, b, c, d = _blend(
                a, b, c, d, south * east, sw + right, channel, D, VECTORS, STEP, WHOLE, PAIRED
            )
        start += height * width
    if KIND != LOCATIONS:
        # The softmax's division, once for all samples of the row.
        scale = 1.0 / total
        a, b, c, d = a * scale, b * scale, c * scale, d * scale
    output += (image.to(tl.int64) * Q * M + (q * M + head)) * (2 * D if PAIRED else D)
    if PAIRED:
        _store_pairs(output, a, c, lane * VEC, exists, D, VEC)
        if VECTORS > 1:
            _store_pairs(output, b, d, lane * VEC + STEP, exists, D, VEC)
    else:
        _store(output, a, channel, exists, D)
        if VECTORS > 1:
            _store(output, b, channel + STEP, exists, D)
        if VECTORS > 2:
            _store(output, c, channel + 2 * STEP, exists, D)
            _store(output, d, channel + 3 * STEP, exists, D)
