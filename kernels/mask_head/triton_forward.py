"""Device code of the dynamic mask head: the little network, upsampling, and the forward kernel.

A lane owns a few cells of the map and keeps the whole network in registers. Parameters are loads of
one address for all lanes, so each is used for several cells at once: hidden values are tensors
[E, BP], of which a lane holds the E values of its column. The forward walks down a tile of rows
and carries the last row along, so that upsampling needs neither shared memory nor an exchange
between lanes. All arithmetic is float32.

Letters
    n, t, b        instance, frame and clip of a program
    h, w           cells of a frame of features; a cell is (row, column)
    C, D           feature channels, hidden width
    LAYERS         of the network, the last included
    R              1 with relative coordinates as two more inputs, else 0
    F              upsampling factor
    E              cells that a lane evaluates at once, a power of two
    BP             lanes of a program: 32 for each of its warps
    opaque_zero    0. Added to addresses in every turn of a loop, for the compiler, which does not
                   know that: it would load all parameters ahead of a loop without stores, and keep
                   all addresses of features, where there are not registers enough for them.
"""

from __future__ import annotations

import triton
import triton.language as tl

INPUTS = [
    *("features", "parameters", "references", "clip_index"),
    *("targets", "target_index", "grad", "grad_sums"),
]
"""Pointers that nothing is loaded through in vectors: a view that begins anywhere is as good."""


@triton.jit
def relu(x):
    """Keeps NaN, so that a diverged network stays visible."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def weights_of(parameters, layer: tl.constexpr, C: tl.constexpr, D: tl.constexpr, R: tl.constexpr):
    """Where the weights [outputs, inputs] of a layer start."""
    return parameters + (0 if layer == 0 else D * (C + 2 * R) + (layer - 1) * D * D)


@triton.jit
def biases_of(
    parameters,
    layer: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    LAYERS: tl.constexpr,
    R: tl.constexpr,
):
    """Where the biases of a layer start: behind the weights of all layers."""
    return parameters + (D * (C + 2 * R) + (LAYERS - 2) * D * D + D + layer * D)


@triton.jit
def load_index(index, n, length):
    """index[n]; a wrong one never reads outside of what it is an index of."""
    b = tl.load(index + n)
    return tl.minimum(tl.maximum(b, 0), length - 1).to(tl.int64)


@triton.jit
def load_input(
    features,  # [C, h, w] of the frame
    reference,  # [2] of the instance in the frame
    row,
    column,
    h,
    w,
    stride,
    i: tl.constexpr,
    R: tl.constexpr,
):
    """Input i of the network at the given cells: rel_x, rel_y, then the channels."""
    if i < 2 * R:
        cell = column if i == 0 else row
        value = tl.load(reference + i).to(tl.float32)
        value = value - (cell * stride + stride // 2).to(tl.float32)
    else:
        value = tl.load(features + ((i - 2 * R) * h * w + row * w + column)).to(tl.float32)
    return value


@triton.jit
def load_inputs(features, reference, row, column, h, w, stride, C: tl.constexpr, R: tl.constexpr):
    """All inputs at the cells [E, BP], a tuple."""
    inputs = ()
    for i in tl.static_range(2 * R):
        inputs += (load_input(features, reference, row, column, h, w, stride, i, R),)
    return inputs + load_channels(features, row * w + column, h * w, C)


@triton.jit
def load_channels(features, cell, cells, COUNT: tl.constexpr):
    """`COUNT` channels at the cells [E, BP], a tuple: one load for 8 of them, then for 4, 2, 1.

    Few loads, since each that the compiler sees costs it a walk over the whole kernel.
    """
    ONCE: tl.constexpr = 8 if COUNT >= 8 else 4 if COUNT >= 4 else 2 if COUNT >= 2 else 1
    channel = tl.arange(0, ONCE)[:, None, None]
    value = tl.load(features + (channel * cells + cell[None, :, :])).to(tl.float32)
    values = unstack_cells(value, ONCE)
    if COUNT > ONCE:
        values += load_channels(features + ONCE * cells, cell, cells, COUNT - ONCE)
    return values


@triton.jit
def unit(inputs, weights, bias, INPUTS: tl.constexpr):
    """One unit before its ReLU."""
    total = tl.load(weights).to(tl.float32) * inputs[0] + tl.load(bias).to(tl.float32)
    for i in tl.static_range(1, INPUTS):
        total += tl.load(weights + i).to(tl.float32) * inputs[i]
    return total


@triton.jit
def first_units(
    inputs, parameters, C: tl.constexpr, D: tl.constexpr, LAYERS: tl.constexpr, R: tl.constexpr
):
    """Units of the first layer with their ReLU, a tuple."""
    biases = biases_of(parameters, 0, C, D, LAYERS, R)
    units = ()
    for o in tl.static_range(D):
        units += (relu(unit(inputs, parameters + o * (C + 2 * R), biases + o, C + 2 * R)),)
    return units


@triton.jit
def next_units(
    units,
    parameters,
    layer: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    LAYERS: tl.constexpr,
    R: tl.constexpr,
):
    """Units of hidden layer 1, 2, ... from those of the layer before."""
    weights, biases = (
        weights_of(parameters, layer, C, D, R),
        biases_of(parameters, layer, C, D, LAYERS, R),
    )
    new = ()
    for o in tl.static_range(D):
        new += (relu(unit(units, weights + o * D, biases + o, D)),)
    return new


@triton.jit
def streamed_units(
    features,
    reference,
    parameters,
    row,
    column,
    h,
    w,
    stride,
    C: tl.constexpr,
    D: tl.constexpr,
    LAYERS: tl.constexpr,
    R: tl.constexpr,
):
    """`first_units` of cells whose inputs nobody else needs: each is used up as it comes."""
    INPUTS: tl.constexpr = C + 2 * R
    biases = biases_of(parameters, 0, C, D, LAYERS, R)
    units = ()
    for o in tl.static_range(D):
        units += (tl.zeros(row.shape, tl.float32) + tl.load(biases + o).to(tl.float32),)
    for i in tl.static_range(INPUTS):
        value = load_input(features, reference, row, column, h, w, stride, i, R)
        new = ()
        for o in tl.static_range(D):
            new += (units[o] + tl.load(parameters + (o * INPUTS + i)).to(tl.float32) * value,)
        units = new
    new = ()
    for o in tl.static_range(D):
        new += (relu(units[o]),)
    return new


@triton.jit
def logits_of(
    units, parameters, C: tl.constexpr, D: tl.constexpr, LAYERS: tl.constexpr, R: tl.constexpr
):
    """Logits from the units of the first layer; those of the last one are used up as they come."""
    last = weights_of(parameters, LAYERS - 1, C, D, R)
    z = tl.zeros_like(units[0]) + tl.load(biases_of(parameters, LAYERS - 1, C, D, LAYERS, R)).to(
        tl.float32
    )
    for layer in tl.static_range(1, LAYERS - 2):
        units = next_units(units, parameters, layer, C, D, LAYERS, R)
    weights, biases = (
        weights_of(parameters, LAYERS - 2, C, D, R),
        biases_of(parameters, LAYERS - 2, C, D, LAYERS, R),
    )
    for o in tl.static_range(D):
        value = units[o] if LAYERS == 2 else relu(unit(units, weights + o * D, biases + o, D))
        z += tl.load(last + o).to(tl.float32) * value
    return z


@triton.jit
def row_logits(
    features,
    reference,
    parameters,
    row,  # [BP] of a lane
    left,  # [BP] first column of a lane
    h,
    w,
    stride,
    C: tl.constexpr,
    D: tl.constexpr,
    LAYERS: tl.constexpr,
    R: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Logits of CELLS cells of a row per lane, a tuple of [BP].

    Beyond the border the nearest cell stands in: the replicated padding of the upsampling.
    """
    e = tl.arange(0, CELLS)[:, None]
    rows = tl.minimum(tl.maximum(row[None, :] + tl.zeros_like(e), 0), h - 1)
    columns = tl.minimum(tl.maximum(left[None, :] + e, 0), w - 1)
    units = streamed_units(
        features, reference, parameters, rows, columns, h, w, stride, C, D, LAYERS, R
    )
    return unstack(logits_of(units, parameters, C, D, LAYERS, R), CELLS)


@triton.jit
def unstack(x, COUNT: tl.constexpr):
    """[COUNT, BP] -> COUNT tensors [BP], in registers; COUNT is 1, 2, 4 or 8."""
    BP: tl.constexpr = x.shape[1]
    if COUNT == 1:
        values = (tl.reshape(x, [BP]),)
    else:
        # `split` takes a last axis away: halve the rows, and make that the last axis.
        halves = tl.permute(tl.reshape(x, [2, COUNT // 2, BP]), (1, 2, 0))
        first, second = tl.split(halves)
        values = unstack(first, COUNT // 2) + unstack(second, COUNT // 2)
    return values


@triton.jit
def unstack_cells(x, COUNT: tl.constexpr):
    """[COUNT, E, BP] -> COUNT tensors [E, BP], in registers."""
    E: tl.constexpr = x.shape[1]
    BP: tl.constexpr = x.shape[2]
    if COUNT == 1:
        values = (tl.reshape(x, [E, BP]),)
    else:
        # `split` takes a last axis away: halve the rows, and make that the last axis.
        first, second = tl.split(tl.permute(tl.reshape(x, [2, COUNT // 2, E, BP]), (1, 2, 3, 0)))
        values = unstack_cells(first, COUNT // 2) + unstack_cells(second, COUNT // 2)
    return values


@triton.jit
def stack_cells(values, COUNT: tl.constexpr):
    """The reverse of `unstack_cells`."""
    E: tl.constexpr = values[0].shape[0]
    BP: tl.constexpr = values[0].shape[1]
    if COUNT == 1:
        x = values[0][None, :, :]
    else:
        first = stack_cells(values[: COUNT // 2], COUNT // 2)
        second = stack_cells(values[COUNT // 2 :], COUNT // 2)
        x = tl.reshape(tl.permute(tl.join(first, second), (3, 0, 1, 2)), [COUNT, E, BP])
    return x


@triton.jit
def blend(first, second, q: tl.constexpr, F: tl.constexpr):
    """The value q / F of the way from `first` to `second`."""
    if q == F:
        value = second
    elif 2 * q == F:
        value = 0.5 * (first + second)
    else:
        value = first * ((F - q) / F) + second * (q / F)
    return value


@triton.jit
def blend_rows(above, below, q, F: tl.constexpr, COLUMNS: tl.constexpr):
    """Two rows of cells of a lane -> the row q / F of the way between them, q in 1..F."""
    share = tl.cast(q, tl.float32) / F
    line = ()
    for c in tl.static_range(COLUMNS):
        # All of one and nothing of the other, were that infinite, would be NaN.
        between = above[c] * (1.0 - share) + below[c] * share
        line += (tl.where(q == F, below[c], between),)
    return line


@triton.jit
def upsample_line(line, F: tl.constexpr, COLUMNS: tl.constexpr):
    """COLUMNS cells -> F pixels for each cell but the first, in the gap to its left."""
    if F == 1:
        pixels = line
    else:
        pixels = ()
        for c in tl.static_range(1, COLUMNS):
            for p in tl.static_range(1, F + 1):
                pixels += (blend(line[c - 1], line[c], p, F),)
    return pixels


@triton.jit(
    do_not_specialize=["G", "B", "T", "h", "w", "stride", "tile_rows", "tiles", "opaque_zero"],
    do_not_specialize_on_alignment=INPUTS,
)
def forward_kernel(
    features,  # [B, T, C, h, w]
    parameters,  # [N, G]
    references,  # [N, T, 2]
    clip_index,  # [N]
    out,  # [N, T, F*h, F*w]
    G,
    B,
    T,
    h,
    w,
    stride,
    tile_rows,  # rows of cells that a lane walks down
    tiles,  # programs per instance and frame
    opaque_zero,
    C: tl.constexpr,
    D: tl.constexpr,
    LAYERS: tl.constexpr,
    R: tl.constexpr,
    F: tl.constexpr,
    CELLS: tl.constexpr,  # cells of a row that a lane evaluates
    BP: tl.constexpr,
):
    """Logits of an instance in a frame, row after row."""
    frame = tl.program_id(0) // tiles
    n = (frame // T).to(tl.int64)
    b = load_index(clip_index, n, B)
    features += (b * T + frame % T) * C * h * w
    parameters += n * G
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
    top = (lane // lanes_per_row) * tile_rows
    above = ()
    for _ in tl.static_range(CELLS):
        above += (tl.zeros([BP], dtype=tl.float32),)
    for i in range(-HALO, tile_rows):
        features += opaque_zero
        parameters += opaque_zero
        references += opaque_zero
        left += opaque_zero
        below = row_logits(
            features, references, parameters, top + i, left - HALO, h, w, stride,
            C, D, LAYERS, R, CELLS,
        )  # fmt: skip
        y = F * (top + i) + FIRST - 1
        for q in range(1, F + 1):
            store_line(out, above, below, q, y + q, left, i >= 0, h, w, F, CELLS)
        above = below


@triton.jit
def store_line(
    out,
    above,
    below,
    q,
    y,
    left,
    is_owned,
    h,
    w,
    F: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Pixels of row y, which is q / F of the way between two rows of cells."""
    HALO: tl.constexpr = 1 if F > 1 else 0
    pixels = upsample_line(blend_rows(above, below, q, F, CELLS), F, CELLS)
    inside = is_owned & (y >= 0) & (y < F * h)
    for p in tl.static_range(F * (CELLS - HALO)):
        x = F * left + (F // 2 - F + 1) + p
        tl.store(
            out + (y * (F * w) + x),
            pixels[p].to(out.dtype.element_ty),
            mask=inside & (x >= 0) & (x < F * w),
        )
