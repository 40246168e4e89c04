"""Device code of the dynamic mask head: backward, in two launches, deterministic.

Hidden values are computed anew. In the first launch, some programs own some cells of one instance
and frame and write partial sums of the gradients of its parameters
(`triton_sums.py`); others own some cells of a frame of features and loop over the
instances. The second launch adds up the partial sums. No atomics.

Programs of both kinds that read the same pixels of the logits' gradient follow each other, so that
the second reading is served by L2, be it small.

The gradient of a reference point comes for nothing: moving it changes the first layer just as its
biases do. Letters as in `triton_forward.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_forward import INPUTS, load_inputs, stack_cells
from .triton_layers import cell_gradient, first_pixel, layer_backward
from .triton_sums import parameter_gradients


@triton.jit
def feature_gradient(
    features,
    parameters,
    references,
    clip_index,
    grad,
    grad_features,
    b,
    t,
    first,  # first cell
    G,
    N,
    T,
    h,
    w,
    stride,
    opaque_zero,
    C: tl.constexpr,
    D: tl.constexpr,
    LAYERS: tl.constexpr,
    R: tl.constexpr,
    F: tl.constexpr,
    E: tl.constexpr,
    BP: tl.constexpr,
):
    """Gradient of E * BP cells of a frame of features, over all instances of the clip."""
    frame = (b * T + t).to(tl.int64)
    features += frame * C * h * w
    grad_features += frame * C * h * w
    cell = first + tl.arange(0, E)[:, None] * BP + tl.arange(0, BP)[None, :]
    inside = cell < h * w
    row, column = tl.minimum(cell, h * w - 1) // w, tl.minimum(cell, h * w - 1) % w
    sums = ()
    for _ in tl.static_range(C):
        sums += (tl.zeros([E, BP], tl.float32),)
    line = grad + tl.cast(t, tl.int64) * (F * h) * (F * w) + first_pixel(row, column, w, F)
    step = tl.cast(T, tl.int64) * (F * h) * (F * w)
    for n in range(0, N):
        features += opaque_zero
        row += opaque_zero
        if tl.load(clip_index + n) == b:
            frame = tl.cast(n, tl.int64) * T + t
            own = parameters + tl.cast(n, tl.int64) * G
            dz = cell_gradient(line, row, column, inside, h, w, F)
            inputs = load_inputs(features, references + frame * 2, row, column, h, w, stride, C, R)
            again = own + opaque_zero if D > 8 else own
            below = layer_backward(inputs, dz, own, again, sums, 0, C, D, LAYERS, R, False)[0]
            new = ()
            for c in tl.static_range(C):
                new += (sums[c] + below[c],)
            sums = new
        line += step
    store_channels(grad_features, sums, cell, h * w, C)


@triton.jit
def store_channels(target, channels, cell, cells, COUNT: tl.constexpr):
    """The reverse of `load_channels`, for cells within the frame."""
    ONCE: tl.constexpr = 8 if COUNT >= 8 else 4 if COUNT >= 4 else 2 if COUNT >= 2 else 1
    to = target + (tl.arange(0, ONCE)[:, None, None] * cells + cell[None, :, :])
    value = stack_cells(channels[:ONCE], ONCE)
    tl.store(to, value.to(target.dtype.element_ty), mask=(cell < cells)[None, :, :])
    if COUNT > ONCE:
        store_channels(target + ONCE * cells, channels[ONCE:], cell, cells, COUNT - ONCE)


@triton.jit(
    do_not_specialize=[
        *("G", "B", "N", "T", "h", "w", "stride", "tile_cells", "tiles"),
        *("feature_clips", "param_instances", "opaque_zero"),
    ],
    do_not_specialize_on_alignment=INPUTS,
)
def gradient_kernel(
    features,  # [B, T, C, h, w]
    parameters,  # [N, G]
    references,  # [N, T, 2]
    clip_index,  # [N]
    grad,  # [N, T, F*h, F*w]
    grad_features,  # [B, T, C, h, w], written
    partials,  # [N, T, tiles, G], written
    G,
    B,
    N,
    T,
    h,
    w,
    stride,
    tile_cells,  # whose programs follow each other, a multiple of both kinds' blocks
    tiles,  # of a frame
    feature_clips,  # B, or 0 if nobody wants gradients of features
    param_instances,  # N, or 0 if nobody wants gradients of parameters
    opaque_zero,
    C: tl.constexpr,
    D: tl.constexpr,
    LAYERS: tl.constexpr,
    R: tl.constexpr,
    F: tl.constexpr,
    UNITS: tl.constexpr,  # of a layer that a program sums
    PARAMETER_E: tl.constexpr,
    FEATURE_E: tl.constexpr,
    BP: tl.constexpr,
):
    """Gradients of features, and partial sums of those of parameters."""
    BLOCK: tl.constexpr = FEATURE_E * BP
    PROGRAMS: tl.constexpr = 1 if UNITS > D else (LAYERS - 1) * (D // UNITS)
    blocks = tile_cells // BLOCK
    feature_programs = feature_clips * blocks
    programs = feature_programs + param_instances * PROGRAMS
    index = tl.program_id(0) % programs
    number = tl.program_id(0) // programs  # t * tiles + p
    t = number // tiles
    first = (number % tiles) * tile_cells
    if index < feature_programs:
        start = first + (index % blocks) * BLOCK
        if start < h * w:
            feature_gradient(
                features, parameters, references, clip_index, grad, grad_features,
                index // blocks, t, start, G, N, T, h, w, stride, opaque_zero,
                C, D, LAYERS, R, F, FEATURE_E, BP,
            )  # fmt: skip
    else:
        index -= feature_programs
        n = (index // PROGRAMS).to(tl.int64)
        partials += ((n * T + t) * tiles + number % tiles) * G
        parameter_gradients(
            features, parameters, references, clip_index, grad, partials, n, t, index % PROGRAMS,
            first, tl.minimum(first + tile_cells, h * w), G, B, T, h, w, stride, opaque_zero,
            C, D, LAYERS, R, F, UNITS, PARAMETER_E, BP,
        )  # fmt: skip


@triton.jit(do_not_specialize=["G", "T", "tiles"], do_not_specialize_on_alignment=INPUTS)
def sum_kernel(
    partials,  # [N, T, tiles, G]
    parameters,  # [N, G]
    grad_params,  # [N, G], written
    grad_references,  # [N, T, 2], written
    G,
    T,
    tiles,
    C: tl.constexpr,
    D: tl.constexpr,
    LAYERS: tl.constexpr,
    R: tl.constexpr,
    BG: tl.constexpr,  # at least G
):
    """Partial sums of an instance -> gradients of its parameters and references; what was written
    last is read first, as long as it is in L2."""
    n = tl.program_id(0).to(tl.int64)
    g = tl.arange(0, BG)
    unit_number = g - (D * (C + 2 * R) + (LAYERS - 2) * D * D + D)
    is_bias = (unit_number >= 0) & (unit_number < D)
    weight = parameters + n * G + unit_number * (C + 2 * R)
    if R:
        weight_x = tl.load(weight, mask=is_bias, other=0.0).to(tl.float32)
        weight_y = tl.load(weight + 1, mask=is_bias, other=0.0).to(tl.float32)
    total = tl.zeros([BG], tl.float32)
    for before in range(0, T):
        t = T - 1 - before
        of_frame = tl.zeros([BG], tl.float32)
        source = partials + ((n * T + t) * tiles + tiles - 1) * G + g
        for _ in range(0, tiles):
            of_frame += tl.load(source, mask=g < G, other=0.0)
            source -= G
        total += of_frame
        if R:
            target = grad_references + (n * T + t) * 2
            x, y = tl.sum(of_frame * weight_x), tl.sum(of_frame * weight_y)
            tl.store(target, x.to(grad_references.dtype.element_ty))
            tl.store(target + 1, y.to(grad_references.dtype.element_ty))
    tl.store(grad_params + n * G + g, total.to(grad_params.dtype.element_ty), mask=g < G)
