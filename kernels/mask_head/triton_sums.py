"""Device code of the mask head's backward: partial sums of the gradients of parameters.

A program sums over some cells of one instance and frame, either all gradients (`sum_all_gradients`)
or, of a head whose sums do not fit into registers, those of a hidden layer or of some of its units
(`sum_layer_gradients`). Letters as in `triton_forward.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_forward import (
    biases_of,
    first_units,
    load_index,
    load_inputs,
    next_units,
    unit,
    weights_of,
)
from .triton_layers import (
    cell_gradient,
    first_pixel,
    layer_backward,
    masked,
    sum_cells,
)


@triton.jit
def sum_all_gradients(
    features,
    reference,
    parameters,
    grad,
    partial,  # [G] of the program
    first,  # first cell
    end,  # cell behind the last
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
    """Gradients of all weights and biases, over some cells."""
    SUMS: tl.constexpr = D * (C + 2 * R) + (LAYERS - 2) * D * D + D + (LAYERS - 1) * D + 1
    sums = ()
    for _g in tl.static_range(SUMS):
        sums += (tl.zeros([1, BP], tl.float32),)
    line = grad + first + tl.arange(0, E)[:, None] * BP + tl.arange(0, BP)[None, :]
    for start in range(first, end, E * BP):
        parameters += opaque_zero
        reference += opaque_zero
        cell = start + tl.arange(0, E)[:, None] * BP + tl.arange(0, BP)[None, :]
        inside = cell < end
        row, column = tl.minimum(cell, end - 1) // w, tl.minimum(cell, end - 1) % w
        if F > 1:
            line = grad + first_pixel(row, column, w, F)
        dz = cell_gradient(line, row, column, inside, h, w, F)
        inputs = load_inputs(features, reference, row, column, h, w, stride, C, R)
        _, weights, biases = layer_backward(
            inputs, dz, parameters, parameters, sums, 0, C, D, LAYERS, R, True
        )
        bias = sums[SUMS - 1] + sum_cells(dz)
        sums = weights + biases + (bias,)
        line += E * BP
    for g in tl.static_range(SUMS):
        tl.store(partial + g, tl.sum(sums[g]))


@triton.jit
def deltas_of(
    inputs,
    dz,
    parameters,
    layer: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    LAYERS: tl.constexpr,
    R: tl.constexpr,
):
    """Gradients of a hidden layer's units before their ReLU, a tuple, from that of the logits.

    Args:
        inputs: what enters layer `layer` (units of the one below, or the network's inputs).
    """
    if layer == 0:
        units = first_units(inputs, parameters, C, D, LAYERS, R)
    else:
        units = next_units(inputs, parameters, layer, C, D, LAYERS, R)
    deltas = ()
    if layer == LAYERS - 2:
        last = weights_of(parameters, LAYERS - 1, C, D, R)
        for o in tl.static_range(D):
            deltas += (masked(tl.load(last + o).to(tl.float32) * dz, units[o]),)
    else:
        above = deltas_of(units, dz, parameters, layer + 1, C, D, LAYERS, R)
        weights = weights_of(parameters, layer + 1, C, D, R)
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
    LAYERS: tl.constexpr,
    R: tl.constexpr,
):
    """What enters a hidden layer."""
    if layer == 0:
        units = inputs
    else:
        units = first_units(inputs, parameters, C, D, LAYERS, R)
        for k in tl.static_range(1, layer):
            units = next_units(units, parameters, k, C, D, LAYERS, R)
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
    opaque_zero,
    layer: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    LAYERS: tl.constexpr,
    R: tl.constexpr,
    F: tl.constexpr,
    UNITS: tl.constexpr,  # of the layer that the program sums
    E: tl.constexpr,
    BP: tl.constexpr,
):
    """Gradients of the weights and biases of some units, over some cells; of the last layer, the
    weights on these units, with the top hidden layer."""
    INPUTS: tl.constexpr = C + 2 * R if layer == 0 else D
    TOP: tl.constexpr = layer == LAYERS - 2
    SIZE: tl.constexpr = INPUTS + 1 + TOP  # sums per unit
    sums = ()
    for _ in tl.static_range(UNITS * SIZE + TOP):
        sums += (tl.zeros([1, BP], tl.float32),)
    line = grad + first + tl.arange(0, E)[:, None] * BP + tl.arange(0, BP)[None, :]
    for start in range(first, end, E * BP):
        parameters += opaque_zero
        cell = start + tl.arange(0, E)[:, None] * BP + tl.arange(0, BP)[None, :]
        inside = cell < end
        row, column = tl.minimum(cell, end - 1) // w, tl.minimum(cell, end - 1) % w
        if F > 1:
            line = grad + first_pixel(row, column, w, F)
        dz = cell_gradient(line, row, column, inside, h, w, F)
        inputs = load_inputs(features, reference, row, column, h, w, stride, C, R)
        inputs = layer_inputs(inputs, parameters, layer, C, D, LAYERS, R)
        weights, biases = (
            weights_of(parameters, layer, C, D, R),
            biases_of(parameters, layer, C, D, LAYERS, R),
        )
        if not TOP:
            units = (
                first_units(inputs, parameters, C, D, LAYERS, R)
                if layer == 0
                else next_units(inputs, parameters, layer, C, D, LAYERS, R)
            )
            above = deltas_of(units, dz, parameters, layer + 1, C, D, LAYERS, R)
        new = ()
        for k in tl.static_range(UNITS):
            o = o0 + k
            if UNITS == D and not TOP:
                value = units[k]
            else:
                value = tl.maximum(unit(inputs, weights + o * INPUTS, biases + o, INPUTS), 0.0)
            if TOP:
                last = weights_of(parameters, LAYERS - 1, C, D, R)
                delta = masked(tl.load(last + o).to(tl.float32) * dz, value)
            else:
                next_weights = weights_of(parameters, layer + 1, C, D, R)
                delta = masked(pull_back(above, next_weights + o, D, D), value)
            for i in tl.static_range(INPUTS):
                new += (sums[k * SIZE + i] + sum_cells(delta * inputs[i]),)
            new += (sums[k * SIZE + INPUTS] + sum_cells(delta),)
            if TOP:
                new += (sums[k * SIZE + INPUTS + 1] + sum_cells(dz * value),)
        if TOP:
            new += (sums[UNITS * SIZE] + sum_cells(dz),)
        sums = new
        line += E * BP

    weights, biases = (
        weights_of(partial, layer, C, D, R),
        biases_of(partial, layer, C, D, LAYERS, R),
    )
    for k in tl.static_range(UNITS):
        o = o0 + k
        for i in tl.static_range(INPUTS):
            tl.store(weights + (o * INPUTS + i), tl.sum(sums[k * SIZE + i]))
        tl.store(biases + o, tl.sum(sums[k * SIZE + INPUTS]))
        if TOP:
            last = weights_of(partial, LAYERS - 1, C, D, R)
            tl.store(last + o, tl.sum(sums[k * SIZE + INPUTS + 1]))
    if TOP:
        bias = biases_of(partial, LAYERS - 1, C, D, LAYERS, R)
        tl.store(bias, tl.sum(sums[UNITS * SIZE]), mask=o0 == 0)


@triton.jit
def parameter_gradients(
    features,
    parameters,
    references,
    clip_index,
    grad,
    partial,  # [G] of the instance, frame and tile
    n,
    t,
    share,  # of the parameters
    first,  # first cell
    end,  # cell behind the last
    G,
    B,
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
    UNITS: tl.constexpr,
    E: tl.constexpr,
    BP: tl.constexpr,
):
    """Partial sums of the gradients of some parameters of an instance, over cells of a frame."""
    WHOLE: tl.constexpr = UNITS > D
    GROUPS: tl.constexpr = 1 if WHOLE else D // UNITS
    features += (load_index(clip_index, n, B) * T + t) * C * h * w
    parameters += n * G
    references += (n * T + t) * 2
    grad += (n * T + t) * (F * h) * (F * w)
    o0 = (share % GROUPS) * UNITS if GROUPS > 1 else 0
    if WHOLE:
        sum_all_gradients(
            features, references, parameters, grad, partial, first, end, h, w, stride, opaque_zero,
            C, D, LAYERS, R, F, E, BP,
        )  # fmt: skip
    for layer in tl.static_range(0 if WHOLE else LAYERS - 1):
        if share // GROUPS == layer:
            sum_layer_gradients(
                features, references, parameters, grad, partial, first, end, o0, h, w, stride,
                opaque_zero, layer, C, D, LAYERS, R, F, UNITS, E, BP,
            )  # fmt: skip
