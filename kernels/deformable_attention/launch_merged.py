"""Launches of the backward that merges adds (`triton_merged.py`), and when it pays."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..device import facts
from ..launch import KernelVariant, argument_type, entry_for, launch_of
from . import tiles
from .tiles import MergedConfig
from .triton_merged import merge_kernel
from .triton_sort import count_kernel, offset_kernel, scatter_kernel, softmax_kernel

RECORD_BYTES = 16
"""Of a sample."""


def config_of(value: Tensor, points: Tensor, is_large: bool) -> MergedConfig | None:
    """How to launch, or None where adding one by one is better, or all that there is.

    Args:
        is_large: whether an image of value needs 64-bit offsets.
    """
    _, S, M, D = value.shape
    _, Q, _, L, P, _ = points.shape
    config = entry_for(tiles.MERGED, facts().capability(value.device))
    if config is None:
        return None
    fits = not is_large and D % config.channels_per_lane == 0 and 32 * config.channels_per_lane >= D
    fits = fits and D & (D - 1) == 0 and Q * L * P * M < 2**28
    pays = Q * M >= tiles.MERGED_ROWS and Q * L * P >= tiles.MERGED_SAMPLES * S
    if not (fits and pays):
        return None
    if facts().is_interpreted(value.device):
        return replace(config, num_warps=tiles.INTERPRETER_WARPS, run=tiles.INTERPRETER_RUN)
    return config


def backward(
    form: tuple[Hashable, MergedConfig],
    sizes: dict[str, Any],
    codes: tuple[int, ...],
    shares: tuple[int, int, int],
    tensors: Sequence[Tensor],
    grad_output: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, points and weights, in float32: [B, S, M, D], [B, Q, M, L, P, 2] and
    [B, Q, M, L, P].

    Args:
        form: what the sizes depend on, and the config.
        sizes: the constants that all kernels of the operator share.
        codes: of the levels, as the kernels take them.
        shares: of points, reference and valid, for `triton_forward.shared`.
        tensors: value, points, weights, reference, valid.
    """
    value, points, weights, reference, valid = tensors
    B, S, M, D = value.shape
    _, Q, _, L, P, _ = points.shape
    grad_value = value.new_zeros(value.shape, dtype=torch.float32)
    grad_points = value.new_empty((B, Q, M, L, P, 2), dtype=torch.float32)
    grad_weights = value.new_empty((B, Q, M, L, P), dtype=torch.float32)
    images = min(B, max(1, tiles.SCRATCH_BYTES // (Q * M * L * P * RECORD_BYTES)))
    records = value.new_empty((images, M, L, Q * P, 4), dtype=torch.int32)
    counts = value.new_zeros((images, M, S), dtype=torch.int32)
    config = form[1]
    queries = -(-Q // grid_of_samples(P)["BQ"])
    blocks = -(-Q * P // (32 * config.num_warps * config.channels_per_lane // D * config.run))
    device = value.device
    sized: tuple[Any, ...]
    given: tuple[Tensor, ...]
    for first in range(0, B, images):
        count = min(images, B - first)
        if first:
            counts.zero_()
        sized = (codes, Q, S, *shares, first)
        given = (points, reference, valid, counts, grad_weights)
        grid = (queries, M, count)
        _run(count_kernel, form, count_variant, sizes, config, grid, device, given, sized)
        grid = (count * M, L, 1)
        _run(
            offset_kernel, form, offset_variant, sizes, config, grid, device, (counts,), (codes, S)
        )
        given = (points, weights, reference, valid, counts, grad_weights, records)
        grid = (queries, M, count)
        _run(scatter_kernel, form, scatter_variant, sizes, config, grid, device, given, sized)
        given = (
            *(value, reference, valid, grad_output, records),
            *(grad_value, grad_points, grad_weights),
        )
        sized = (codes, Q, S, *shares[1:], first)
        grid = (blocks, M * L, count)
        _run(merge_kernel, form, merge_variant, sizes, config, grid, device, given, sized)
    if sizes["KIND"] != 0:
        grid = (-(-Q * M // softmax_rows(sizes["SAMPLES"])), 1, B)
        given, sized = (weights, grad_weights), (Q * M, shares[0])
        _run(softmax_kernel, form, softmax_variant, sizes, config, grid, device, given, sized)
    return grad_value, grad_points, grad_weights


def _run(
    kernel: Any,
    form: Any,
    make: Any,
    sizes: dict[str, Any],
    config: MergedConfig,
    grid: tuple[int, ...],
    device: torch.device,
    tensors: tuple[Tensor, ...],
    others: tuple[Any, ...],
) -> None:
    launch = launch_of(kernel, form, lambda given: make(given, sizes, config), tensors, others)
    launch.run(grid, device, *tensors, *others)


_WARPS = 4
"""Of programs that go over samples or cells."""

_COMMON = ("M", "L", "P", "KIND", "HAS_VALID", "NARROW")


def grid_of_samples(P: int) -> dict[str, int]:
    """Queries of a program that gives a lane to each point, and these lanes."""
    lanes = 1 << (P - 1).bit_length()
    return {"BQ": max(32 * _WARPS // lanes, 1), "LANES": lanes}


def merge_layout(D: int, config: MergedConfig) -> dict[str, int]:
    """Streams of a program, and how their lanes share D channels."""
    vec = min(config.vector, config.channels_per_lane)
    lanes = D // config.channels_per_lane
    return {
        "STREAMS": 32 * config.num_warps // lanes,
        "RUN": config.run,
        "VECTORS": config.channels_per_lane // vec,
        "LANES": lanes,
        "VEC": vec,
        "SCALAR": config.scalar,
    }


def softmax_rows(samples: int) -> int:
    """Rows of a program; of their samples, rounded up, a lane has four."""
    return max(4 * 32 * _WARPS // samples, 1)


def count_variant(
    arguments: dict[str, Any], sizes: dict[str, Any], config: MergedConfig
) -> KernelVariant:
    """How `count_kernel` is compiled for these arguments (tensors or dtypes)."""
    layout = grid_of_samples(sizes["P"])
    constants = {name: sizes[name] for name in _COMMON} | layout
    return _variant(count_kernel, arguments, constants, layout["BQ"], sizes["L"])


def offset_variant(
    arguments: dict[str, Any], sizes: dict[str, Any], config: MergedConfig
) -> KernelVariant:
    """How `offset_kernel` is compiled for these arguments (tensors or dtypes)."""
    constants = {"L": sizes["L"], "BLOCK": 1024}
    return _variant(offset_kernel, arguments, constants, 1024, 1)


def scatter_variant(
    arguments: dict[str, Any], sizes: dict[str, Any], config: MergedConfig
) -> KernelVariant:
    """How `scatter_kernel` is compiled for these arguments (tensors or dtypes)."""
    layout = grid_of_samples(sizes["P"])
    constants = {name: sizes[name] for name in (*_COMMON, "SAMPLES")} | layout
    return _variant(scatter_kernel, arguments, constants, layout["BQ"], sizes["L"])


def merge_variant(
    arguments: dict[str, Any], sizes: dict[str, Any], config: MergedConfig
) -> KernelVariant:
    """How `merge_kernel` is compiled for these arguments (tensors or dtypes)."""
    layout = merge_layout(sizes["D"], config)
    constants = {name: sizes[name] for name in (*_COMMON, "D")} | layout
    rows = max(layout["STREAMS"] * config.run // (sizes["L"] * sizes["P"]), 1)
    made = _variant(merge_kernel, arguments, constants, rows, config.run)
    return replace(made, num_warps=config.num_warps, max_registers=config.max_registers)


def softmax_variant(
    arguments: dict[str, Any], sizes: dict[str, Any], config: MergedConfig
) -> KernelVariant:
    """How `softmax_kernel` is compiled for these arguments (tensors or dtypes)."""
    rows = softmax_rows(sizes["SAMPLES"])
    constants = {"LP": sizes["L"] * sizes["P"], "SAMPLES": sizes["SAMPLES"], "BLOCK": rows}
    return _variant(softmax_kernel, arguments, constants, rows, 1)


def _variant(
    kernel: Any, arguments: dict[str, Any], constants: dict[str, Any], rows: int, trips: int
) -> KernelVariant:
    return KernelVariant(
        kernel=kernel,
        types={name: argument_type(value) for name, value in arguments.items()},
        constants=constants,
        num_warps=_WARPS,
        rows=rows,
        trips=trips,
    )
