"""The mask head's forward kernel as an operator that compilers look into, for graphs that leave
Python; see `deformable_attention.triton_in_graph`.

No such graph has been run on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from ..device import facts
from ..in_graph import with_options
from . import tiles
from .inputs import MaskHeadInputs
from .launch import contiguous, forward_config, network_constants
from .op import head_of
from .triton_forward import INPUTS, forward_kernel

_NUMBERS = ("G", "B", "T", "h", "w", "stride", "tile_rows", "tiles", "opaque_zero")


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=INPUTS)
def numbers_kernel(
    features,
    parameters,
    references,
    clip_index,
    out,
    G,
    B,
    T,
    h,
    w,
    stride,
    tile_rows,
    tiles,
    opaque_zero,
    C: tl.constexpr,
    D: tl.constexpr,
    LAYERS: tl.constexpr,
    R: tl.constexpr,
    F: tl.constexpr,
    CELLS: tl.constexpr,
    BP: tl.constexpr,
):
    """`forward_kernel` with numbers of any width, which all fit 32 bits."""
    forward_kernel(
        features, parameters, references, clip_index, out,
        tl.cast(G, tl.int32), tl.cast(B, tl.int32), tl.cast(T, tl.int32),
        tl.cast(h, tl.int32), tl.cast(w, tl.int32), tl.cast(stride, tl.int32),
        tl.cast(tile_rows, tl.int32), tl.cast(tiles, tl.int32), tl.cast(opaque_zero, tl.int32),
        C, D, LAYERS, R, F, CELLS, BP,
    )  # fmt: skip


@triton_op("seqformer_kernels::dynamic_mask_head_in_graph", mutates_args={})
def forward(
    features: Tensor, params: Tensor, references: Tensor, clip_index: Tensor, sizes: list[int]
) -> Tensor:
    """As `op.forward`, on a GPU and without a gradient."""
    head = head_of(features.shape[2], sizes)
    inputs = contiguous(MaskHeadInputs(features, params, references, clip_index))
    B, T, _, h, w = features.shape
    (N, G), F = params.shape, head.upsample
    out = features.new_empty((N, T, F * h, F * w))
    config = forward_config(facts().capability(out.device), head)
    lanes_per_row = -(-(w + (F > 2)) // (config.cells - (F > 1)))
    rows = h + (F > 2)
    # As `launch.row_tiles`, without a choice, of which a tracer would keep one side.
    tile_rows = N * T * lanes_per_row * rows // tiles.ENOUGH_LANES
    tile_rows = torch.sym_min(torch.sym_max(tile_rows, 1), tiles.MOST_ROWS)
    programs = -(-lanes_per_row * -(-rows // tile_rows) // (32 * config.num_warps))
    constants = network_constants(head) | {
        "F": F,
        "CELLS": config.cells,
        "BP": 32 * config.num_warps,
    }
    kernel = with_options(numbers_kernel, config.num_warps, config.max_registers)
    wrap_triton(kernel)[(N * T * programs,)](
        *inputs, out, *(G, B, T, h, w, head.stride, tile_rows, programs, 0), **constants
    )
    return out
