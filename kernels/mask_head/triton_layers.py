"""Device code of the mask head's backward that all its programs share: from the gradient of the
logits down through the layers. Letters as in `triton_forward.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_forward import relu, unit


@triton.jit
def first_pixel(row, column, w, F: tl.constexpr):
    """Where the first of the pixels is that a cell is blended into."""
    return (F * row + (F // 2 + 1 - F)) * (F * w) + F * column + (F // 2 + 1 - F)


@triton.jit
def cell_gradient(line, row, column, inside, h, w, F: tl.constexpr):
    """The transpose of the upsampling: gradient of the logits at the given cells.

    A cell is blended into the pixels less than F away from its own. Pixels beyond the first or last
    cell are copies of it. Loops, whose address is carried from turn to turn, compile sooner than
    copies do: see `load_channels`.

    Args:
        line: address of the cell's first pixel.
    """
    total = tl.zeros(inside.shape, tl.float32)
    y = F * row + (F // 2 + 1 - F)
    for i in range(1 - F, F):
        weight_y = edge_weight(row, i, h, F)
        inside_y = inside & (y >= 0) & (y < F * h)
        x = F * column + (F // 2 + 1 - F)
        source = line
        for j in range(1 - F, F):
            weight = weight_y * edge_weight(column, j, w, F)
            value = tl.load(source, mask=inside_y & (x >= 0) & (x < F * w), other=0.0)
            total += weight * value.to(tl.float32)
            source += 1
            x += 1
        line += F * w
        y += 1
    return total


@triton.jit
def edge_weight(cell, distance, size, F: tl.constexpr):
    """Share of a cell in the pixel `distance` pixels further on."""
    last = tl.where(distance < 0, 0, size - 1)
    share = 1.0 - tl.abs(distance).to(tl.float32) / F
    return tl.where(cell == last, 1.0, share)


@triton.jit
def sum_cells(x):
    """Over the cells of a lane, [E, BP] -> [1, BP]."""
    return x if x.shape[0] == 1 else tl.sum(x, axis=0, keep_dims=True)


@triton.jit
def masked(delta, unit_value):
    """Backward of the ReLU."""
    return tl.where(unit_value > 0, delta, 0.0)


@triton.jit
def layer_backward(
    inputs,  # of the layer, a tuple
    dz,
    parameters,
    again,
    sums,  # in the order of the parameters
    layer: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    LAYERS: tl.constexpr,
    R: tl.constexpr,
    IS_SUMMING: tl.constexpr,
):
    """Backward of a hidden layer and of all above it, from the gradient of the logits.

    Units of the top layer are used up as they come, so that their weights are loaded once.

    Args:
        again: the parameters' address for the way back. The same, or, where a layer's weights are
            too many to be kept until then, what the compiler takes for another one.

    Returns: gradients of the layer's inputs (of layer 0: of the channels alone, and only where
        nothing is summed); if IS_SUMMING, new sums of weights and of biases.
    """
    TOP: tl.constexpr = layer == LAYERS - 2
    INPUTS: tl.constexpr = C + 2 * R if layer == 0 else D
    NUM_WEIGHTS: tl.constexpr = D * (C + 2 * R) + (LAYERS - 2) * D * D + D
    FIRST: tl.constexpr = 0 if layer == 0 else D * (C + 2 * R) + (layer - 1) * D * D
    BIAS: tl.constexpr = NUM_WEIGHTS + layer * D
    SKIPPED: tl.constexpr = 0 if layer > 0 else INPUTS if IS_SUMMING else 2 * R
    weight_sums = ()
    bias_sums = ()
    above_weights = ()
    above_biases = ()
    if not TOP:
        units = ()
        for o in tl.static_range(D):
            weights = parameters + (FIRST + o * INPUTS)
            units += (relu(unit(inputs, weights, parameters + (BIAS + o), INPUTS)),)
        grads, above_weights, above_biases = layer_backward(
            units, dz, parameters, again, sums, layer + 1, C, D, LAYERS, R, IS_SUMMING
        )
    below = ()
    for o in tl.static_range(D):
        if TOP:
            weights = parameters + (FIRST + o * INPUTS)
            value = relu(unit(inputs, weights, parameters + (BIAS + o), INPUTS))
            last = tl.load(parameters + (NUM_WEIGHTS - D + o)).to(tl.float32)
            delta = masked(last * dz, value)
            if IS_SUMMING:
                above_weights += (sums[NUM_WEIGHTS - D + o] + sum_cells(dz * value),)
        else:
            delta = masked(grads[o], units[o])
        new = ()
        for i in tl.static_range(SKIPPED, INPUTS):
            share = tl.load(again + (FIRST + o * INPUTS + i)).to(tl.float32) * delta
            new += (share,) if o == 0 else (below[i - SKIPPED] + share,)
        below = new
        if IS_SUMMING:
            for i in tl.static_range(INPUTS):
                total = sums[FIRST + o * INPUTS + i]
                weight_sums += (total + sum_cells(delta * inputs[i]),)
            bias_sums += (sums[BIAS + o] + sum_cells(delta),)
    return below, weight_sums + above_weights, bias_sums + above_biases
