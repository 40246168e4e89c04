"""The forward kernel as an operator that compilers look into, for graphs that leave Python.

The operators of `op.py` are opaque: a package of AOTInductor could call them only where this
package is. Here the launch itself is traced (`torch.library.triton_op`), so that the compiled
kernel travels in the package. What differs from `launch.forward`, whose kernel it is: sizes may be
symbols, the heights and widths of the levels are arguments one by one, since inductor passes no
tuples, and the tile is chosen while tracing, for the GPU that the tensors are on.

No such package has been run on a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from ..device import facts
from ..in_graph import with_options
from ..launch import table_capability
from . import launch, tiles
from .tiles import LaunchConfig
from .triton_forward import forward_kernel

MAX_LEVELS = 4
MAX_SIDE, MAX_TOKENS, MAX_ELEMENTS = 2**15, 2**24, 2**31
"""Of a level, of all levels, and of an image of value: below them, offsets have 32 bits."""

_CONSTANTS = (
    *("M", "D", "L", "P", "F", "SAMPLES", "KIND", "PAIRED"),
    *("BQ", "HEADS", "VECTORS", "LANES", "VEC"),
)
_SIZES = tuple(f"{side}{level}" for level in range(MAX_LEVELS) for side in ("height", "width"))


@triton.jit
def packed(height, width):
    """As `launch._Levels.codes` of small levels."""
    return tl.cast(height, tl.int32) << 16 | tl.cast(width, tl.int32) << 1 | 1


@triton.jit(
    do_not_specialize=[*_SIZES, "Q", "S", "share_points", "share_reference"],
)
def levels_kernel(
    value,
    points,
    weights,
    reference,
    output,
    height0,
    width0,
    height1,
    width1,
    height2,
    width2,
    height3,
    width3,
    Q,
    S,
    share_points,
    share_reference,
    M: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    F: tl.constexpr,
    SAMPLES: tl.constexpr,
    KIND: tl.constexpr,
    PAIRED: tl.constexpr,
    BQ: tl.constexpr,
    HEADS: tl.constexpr,
    VECTORS: tl.constexpr,
    LANES: tl.constexpr,
    VEC: tl.constexpr,
):
    """`forward_kernel` with numbers of any width, which all fit 32 bits; nothing padded, no level
    one cell wide."""
    levels = (
        packed(height0, width0),
        packed(height1, width1),
        packed(height2, width2),
        packed(height3, width3),
    )
    forward_kernel(
        value, points, weights, reference, points, output, levels,
        tl.cast(Q, tl.int32), tl.cast(S, tl.int32),
        tl.cast(share_points, tl.int32), tl.cast(share_reference, tl.int32), 0,
        M, D, L, P, F, SAMPLES, KIND, False, False, False, PAIRED, BQ, HEADS, VECTORS, LANES, VEC,
    )  # fmt: skip


@triton_op("seqformer_kernels::ms_deform_attn_in_graph", mutates_args={})
def forward(
    value: Tensor, points: Tensor, weights: Tensor, reference: Tensor | None, shapes: list[int]
) -> Tensor:
    """As `op.forward`, on a GPU, without padding and without a gradient.

    Args:
        value: of 2**15 images at most, which is not looked at.
        shapes: of at most 4 levels, whose sides are 2 at least.

    Raises: ValueError: more levels.
    """
    B, S, M, D = value.shape
    _, Q, _, L, P, _ = points.shape
    if L > MAX_LEVELS:
        raise ValueError(f"{L} levels are more than the {MAX_LEVELS} that a graph takes")
    for side in shapes:
        torch._check(side >= 2)
        torch._check(side < MAX_SIDE)
    torch._check(S < MAX_TOKENS)
    torch._check(S * M * D < MAX_ELEMENTS)
    output = value.new_empty((B, Q, M * D))
    value, points, weights = value.contiguous(), points.contiguous(), weights.contiguous()
    numbers = None if reference is None else reference.shape[-1]
    reference = points if reference is None else reference.contiguous()
    form = launch._Form(M, D, L, P, numbers, has_valid=False, is_narrow=False, is_large=False)
    config = _config(value, Q)
    constants = launch.forward_variant({"value": value}, launch._sizes(form), config).constants
    kernel = with_options(levels_kernel, config.num_warps, config.max_registers)
    grid = (-(-Q // constants["BQ"]), M // constants["HEADS"], B)
    wrap_triton(kernel)[grid](
        *(value, points, weights, reference, output),
        *shapes,
        *([1] * (2 * MAX_LEVELS - len(shapes))),
        *(Q, S, _share(points, B), _share(reference, B)),
        **{name: constants[name] for name in _CONSTANTS},
    )
    return output


def _config(value: Tensor, Q: Any) -> LaunchConfig:
    """As `launch._config`; where Q is a symbol, queries are tokens."""
    config = tiles.FORWARD[table_capability(facts().capability(value.device))]
    if facts().is_interpreted(value.device):
        return replace(config, num_warps=tiles.INTERPRETER_WARPS)
    S, M = value.shape[1:3]
    is_few = isinstance(Q, int) and Q * M < tiles.FEW_ROWS
    is_tokens = isinstance(S, int) and Q == S
    return replace(config, num_warps=1) if is_few and not is_tokens else config


def _share(shared: Tensor, B: Any) -> Any:
    """As `launch._share`."""
    return -(-(shared.shape[0] * 2**30) // B)
