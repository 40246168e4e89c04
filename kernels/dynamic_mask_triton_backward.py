"""Device code of the dynamic mask head: backward, in two launches, deterministic.

Hidden values are computed anew. In the first launch, some programs own some cells of one instance
and frame and sum the gradients of its parameters, one hidden layer (or some of its units) a
program, so that the sums stay in registers, and write them as partial sums; others own some cells
of a frame of features and loop over the instances. The second launch adds up the partial sums. No
atomics.

Programs of both kinds that read the same pixels of the logits' gradient follow each other, so that
the second reading is served by L2, be it small (`bench/mask_traffic.py`). One program that reads
them once has to sum all gradients of an instance's parameters over its lanes before it turns to the
next instance: compiled for sm_90 in programs of 512 cells, which keep partial sums small, that took
3221 instructions for 64 cells of an instance where the two kinds take 3425, but 380 barriers and
254 registers (four cells a lane: 950 to 1260 bytes spilled), in too few programs for a large GPU.

The gradient of a reference point comes for nothing: moving it changes the first layer just as its
biases do. Letters as in `dynamic_mask_triton.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .dynamic_mask_triton import (
    INPUTS,
    biases_of,
    first_units,
    load_index,
    load_inputs,
    next_units,
    unit,
    weights_of,
)


@triton.jit
def cell_gradient(grad, row, column, inside, h, w, F: tl.constexpr):
    """The transpose of the upsampling: gradient of the logits at the given cells.

    A cell is blended into the pixels less than F away from its own. Pixels beyond the first or last
    cell are copies of it.
    """
    total = tl.zeros(inside.shape, tl.float32)
    # A loop, and one load: every load and store that the compiler sees costs it a walk over the
    # whole kernel (TritonGPUCoalesce).
    for i in range(1 - F, F):
        y = F * row + F // 2 + i
        weight_y = edge_weight(row, i, h, F)
        inside_y = inside & (y >= 0) & (y < F * h)
        for j in range(1 - F, F):
            x = F * column + F // 2 + j
            weight = weight_y * edge_weight(column, j, w, F)
            value = tl.load(
                grad + (y * (F * w) + x), mask=inside_y & (x >= 0) & (x < F * w), other=0.0
            )
            total += weight * value.to(tl.float32)
    return total


@triton.jit
def edge_weight(cell, distance, size, F: tl.constexpr):
    """Share of a cell in the pixel `distance` pixels further on."""
    last = tl.where(distance < 0, 0, size - 1)
    share = 1.0 - tl.abs(distance).to(tl.float32) / F
    return tl.where(cell == last, 1.0, share)


@triton.jit
def masked(delta, unit_value):
    """Backward of the ReLU."""
    return tl.where(unit_value > 0, delta, 0.0)


@triton.jit
def deltas_of(
    inputs,
    dz,
    parameters,
    again,
    layer: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
):
    """Gradients of a hidden layer's units before their ReLU, a tuple, from that of the logits.

    Args:
        inputs: what enters layer `layer` (units of the one below, or the network's inputs).
        again: the parameters' address for the way back. The same, or, where a layer's weights are
            too many to be kept until then, what the compiler takes for another one.
    """
    if layer == 0:
        units = first_units(inputs, parameters, C, D, K, R)
    else:
        units = next_units(inputs, parameters, layer, C, D, K, R)
    deltas = ()
    if layer == K - 2:
        last = weights_of(again, K - 1, C, D, R)
        for o in tl.static_range(D):
            deltas += (masked(tl.load(last + o).to(tl.float32) * dz, units[o]),)
    else:
        above = deltas_of(units, dz, parameters, again, layer + 1, C, D, K, R)
        weights = weights_of(again, layer + 1, C, D, R)
        for o in tl.static_range(D):
            deltas += (masked(pull_back(above, weights + o, D, D), units[o]),)
    return deltas


@triton.jit
def pull_back(deltas, weights, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr):
    """Gradient of one input of a layer: its column of the weights times the units' gradients."""
    total = tl.load(weights).to(tl.float32) * deltas[0]
    for k in tl.static_range(1, OUTPUTS):
        total += tl.load(weights + k * INPUTS).to(tl.float32) * deltas[k]
    return total


@triton.jit
def layer_inputs(
    inputs,
    parameters,
    layer: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
):
    """What enters a hidden layer."""
    if layer == 0:
        units = inputs
    else:
        units = first_units(inputs, parameters, C, D, K, R)
        for k in tl.static_range(1, layer):
            units = next_units(units, parameters, k, C, D, K, R)
    return units


@triton.jit
def sum_layer_gradients(
    features,
    reference,
    parameters,
    grad,
    partial,  # [G] of the program
    first,  # first cell
    end,  # cell behind the last
    o0,  # first unit of the program
    h,
    w,
    stride,
    still,
    layer: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    F: tl.constexpr,
    UNITS: tl.constexpr,  # of the layer that the program sums
    E: tl.constexpr,
    BP: tl.constexpr,
):
    """Gradients of the weights and biases of some units, over some cells; of the last layer, the
    weights on these units, with the top hidden layer."""
    INPUTS: tl.constexpr = C + 2 * R if layer == 0 else D
    TOP: tl.constexpr = layer == K - 2
    SIZE: tl.constexpr = INPUTS + 1 + TOP  # sums per unit
    sums = ()
    for _ in tl.static_range(UNITS * SIZE + TOP):
        sums += (tl.zeros([BP], tl.float32),)
    for start in range(first, end, E * BP):
        parameters += still
        cell = start + tl.arange(0, E)[:, None] * BP + tl.arange(0, BP)[None, :]
        inside = cell < end
        row, column = tl.minimum(cell, end - 1) // w, tl.minimum(cell, end - 1) % w
        dz = cell_gradient(grad, row, column, inside, h, w, F)
        inputs = load_inputs(features, reference, row, column, h, w, stride, C, R)
        inputs = layer_inputs(inputs, parameters, layer, C, D, K, R)
        weights, biases = (
            weights_of(parameters, layer, C, D, R),
            biases_of(parameters, layer, C, D, K, R),
        )
        if not TOP:
            units = (
                first_units(inputs, parameters, C, D, K, R)
                if layer == 0
                else next_units(inputs, parameters, layer, C, D, K, R)
            )
            above = deltas_of(units, dz, parameters, parameters, layer + 1, C, D, K, R)
        new = ()
        for k in tl.static_range(UNITS):
            o = o0 + k
            if UNITS == D and not TOP:
                value = units[k]
            else:
                value = tl.maximum(unit(inputs, weights + o * INPUTS, biases + o, INPUTS), 0.0)
            if TOP:
                last = weights_of(parameters, K - 1, C, D, R)
                delta = masked(tl.load(last + o).to(tl.float32) * dz, value)
            else:
                next_weights = weights_of(parameters, layer + 1, C, D, R)
                delta = masked(pull_back(above, next_weights + o, D, D), value)
            for i in tl.static_range(INPUTS):
                new += (sums[k * SIZE + i] + tl.sum(delta * inputs[i], axis=0),)
            new += (sums[k * SIZE + INPUTS] + tl.sum(delta, axis=0),)
            if TOP:
                new += (sums[k * SIZE + INPUTS + 1] + tl.sum(dz * value, axis=0),)
        if TOP:
            new += (sums[UNITS * SIZE] + tl.sum(dz, axis=0),)
        sums = new

    weights, biases = weights_of(partial, layer, C, D, R), biases_of(partial, layer, C, D, K, R)
    for k in tl.static_range(UNITS):
        o = o0 + k
        for i in tl.static_range(INPUTS):
            tl.store(weights + (o * INPUTS + i), tl.sum(sums[k * SIZE + i]))
        tl.store(biases + o, tl.sum(sums[k * SIZE + INPUTS]))
        if TOP:
            last = weights_of(partial, K - 1, C, D, R)
            tl.store(last + o, tl.sum(sums[k * SIZE + INPUTS + 1]))
    if TOP:
        bias = biases_of(partial, K - 1, C, D, K, R)
        tl.store(bias, tl.sum(sums[UNITS * SIZE]), mask=o0 == 0)


@triton.jit
def parameter_gradients(
    features,
    parameters,
    references,
    clip_index,
    grad,
    partial,  # [G] of the instance, frame and piece
    n,
    t,
    part,  # of the parameters
    first,  # first cell
    end,  # cell behind the last
    G,
    B,
    T,
    h,
    w,
    stride,
    still,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    F: tl.constexpr,
    UNITS: tl.constexpr,
    E: tl.constexpr,
    BP: tl.constexpr,
):
    """Partial sums of the gradients of some parameters of an instance, over cells of a frame."""
    GROUPS: tl.constexpr = D // UNITS
    features += (load_index(clip_index, n, B) * T + t) * C * h * w
    parameters += n * G
    references += (n * T + t) * 2
    grad += (n * T + t) * (F * h) * (F * w)
    o0 = (part % GROUPS) * UNITS if GROUPS > 1 else 0
    for layer in tl.static_range(K - 1):
        if part // GROUPS == layer:
            sum_layer_gradients(
                features, references, parameters, grad, partial, first, end, o0, h, w, stride,
                still, layer, C, D, K, R, F, UNITS, E, BP,
            )  # fmt: skip


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
    still,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
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
    for n in range(0, N):
        features += still
        row += still
        if tl.load(clip_index + n) == b:
            frame = tl.cast(n, tl.int64) * T + t
            own = parameters + tl.cast(n, tl.int64) * G
            dz = cell_gradient(grad + frame * (F * h) * (F * w), row, column, inside, h, w, F)
            inputs = load_inputs(features, references + frame * 2, row, column, h, w, stride, C, R)
            again = own + still if D > 8 else own
            deltas = deltas_of(inputs, dz, own, again, 0, C, D, K, R)
            new = ()
            for c in tl.static_range(C):
                new += (sums[c] + pull_back(deltas, again + (2 * R + c), D, C + 2 * R),)
            sums = new
    for c in tl.static_range(C):
        value = sums[c].to(grad_features.dtype.element_ty)
        tl.store(grad_features + (c * h * w + cell), value, mask=inside)


@triton.jit(
    do_not_specialize=[
        *("G", "B", "N", "T", "h", "w", "stride", "piece", "pieces"),
        *("feature_clips", "param_instances", "still"),
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
    partials,  # [N, T, pieces, G], written
    G,
    B,
    N,
    T,
    h,
    w,
    stride,
    piece,  # cells of a frame whose programs follow each other, a multiple of both kinds' blocks
    pieces,  # of a frame
    feature_clips,  # B, or 0 if nobody wants gradients of features
    param_instances,  # N, or 0 if nobody wants gradients of parameters
    still,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    F: tl.constexpr,
    UNITS: tl.constexpr,  # of a layer that a program sums
    PARAMETER_E: tl.constexpr,
    FEATURE_E: tl.constexpr,
    BP: tl.constexpr,
):
    BLOCK: tl.constexpr = FEATURE_E * BP
    PARTS: tl.constexpr = (K - 1) * (D // UNITS)
    blocks = piece // BLOCK
    feature_programs = feature_clips * blocks
    programs = feature_programs + param_instances * PARTS
    index = tl.program_id(0) % programs
    number = tl.program_id(0) // programs  # t * pieces + p
    t = number // pieces
    first = (number % pieces) * piece
    if index < feature_programs:
        start = first + (index % blocks) * BLOCK
        if start < h * w:
            feature_gradient(
                features, parameters, references, clip_index, grad, grad_features,
                index // blocks, t, start, G, N, T, h, w, stride, still,
                C, D, K, R, F, FEATURE_E, BP,
            )  # fmt: skip
    else:
        index -= feature_programs
        n = (index // PARTS).to(tl.int64)
        partials += ((n * T + t) * pieces + number % pieces) * G
        parameter_gradients(
            features, parameters, references, clip_index, grad, partials, n, t, index % PARTS,
            first, tl.minimum(first + piece, h * w), G, B, T, h, w, stride, still,
            C, D, K, R, F, UNITS, PARAMETER_E, BP,
        )  # fmt: skip


@triton.jit(do_not_specialize=["G", "T", "pieces"], do_not_specialize_on_alignment=INPUTS)
def sum_kernel(
    partials,  # [N, T, pieces, G]
    parameters,  # [N, G]
    grad_params,  # [N, G], written
    grad_references,  # [N, T, 2], written
    G,
    T,
    pieces,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    BG: tl.constexpr,  # at least G
):
    """Partial sums of an instance -> gradients of its parameters and references; what was written
    last is read first, as long as it is in L2."""
    n = tl.program_id(0).to(tl.int64)
    g = tl.arange(0, BG)
    unit_number = g - (D * (C + 2 * R) + (K - 2) * D * D + D)
    is_bias = (unit_number >= 0) & (unit_number < D)
    weight = parameters + n * G + unit_number * (C + 2 * R)
    if R:
        weight_x = tl.load(weight, mask=is_bias, other=0.0).to(tl.float32)
        weight_y = tl.load(weight + 1, mask=is_bias, other=0.0).to(tl.float32)
    total = tl.zeros([BG], tl.float32)
    for before in range(0, T):
        t = T - 1 - before
        of_frame = tl.zeros([BG], tl.float32)
        source = partials + ((n * T + t) * pieces + pieces - 1) * G + g
        for _ in range(0, pieces):
            of_frame += tl.load(source, mask=g < G, other=0.0)
            source -= G
        total += of_frame
        if R:
            target = grad_references + (n * T + t) * 2
            x, y = tl.sum(of_frame * weight_x), tl.sum(of_frame * weight_y)
            tl.store(target, x.to(grad_references.dtype.element_ty))
            tl.store(target + 1, y.to(grad_references.dtype.element_ty))
    tl.store(grad_params + n * G + g, total.to(grad_params.dtype.element_ty), mask=g < G)
