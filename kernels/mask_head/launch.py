"""From tensors to launches of the dynamic mask head's kernels, and the variants they come in.

Inputs are checked already (`__init__.py`). Layout of programs: `triton_forward.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..device import facts
from ..launch import KernelVariant, argument_type, entry_for, launch_of
from . import tiles
from .inputs import MaskHeadConfig, MaskHeadInputs
from .tiles import BackwardConfig, LaunchConfig
from .triton_backward import gradient_kernel, sum_kernel
from .triton_forward import forward_kernel


def forward(inputs: MaskHeadInputs, head: MaskHeadConfig) -> Tensor:
    """One launch. Result as `op.forward`."""
    inputs = contiguous(inputs)
    B, T, _, h, w = inputs.features.shape
    (N, G), F = inputs.params.shape, head.upsample
    out = inputs.features.new_empty((N, T, F * h, F * w))
    config = forward_config(facts().capability(out.device), head)
    tile_rows, programs = row_tiles(
        h, w + (F > 2), config.cells - (F > 1), 32 * config.num_warps, N * T, h + (F > 2)
    )
    run_kernel(
        forward_kernel,
        (head, config),
        lambda arguments: forward_variant(arguments, head, config),
        N * T * programs,
        (*inputs, out),
        (G, B, T, h, w, head.stride, tile_rows, programs, 0),
    )
    return out


def backward(
    grad: Tensor, inputs: MaskHeadInputs, head: MaskHeadConfig, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Two launches. Results as `op.backward`; None where not asked for."""
    needs_features, needs_params = needs
    inputs = contiguous(inputs)
    features, params, references, _ = inputs
    B, T, _, h, w = features.shape
    N, G = params.shape
    config = backward_config(facts().capability(grad.device), head)
    clips, instances = B * needs_features, N * needs_params
    programs = programs_of(head, config)
    works = T * (clips + instances * max(programs, head.num_layers - 1))
    tile_cells = tile_cells_of(h * w, works, config)
    num_tiles = -(-h * w // tile_cells)
    blocks = tile_cells // config.block(config.feature_cells)

    grad_features = features.new_empty(features.shape if needs_features else 0)
    partials = grad.new_empty((instances, T, num_tiles, G), dtype=torch.float32)
    sizes = (G, B, N, T, h, w, head.stride)
    run_kernel(
        gradient_kernel,
        (head, config),
        lambda arguments: gradient_variant(arguments, head, config),
        T * num_tiles * (clips * blocks + instances * programs),
        (*inputs, grad.contiguous(), grad_features, partials),
        (*sizes, tile_cells, num_tiles, clips, instances, 0),
    )

    grad_params = params.new_empty(params.shape if needs_params else 0)
    grad_references = references.new_empty(references.shape if needs_params else 0)
    if not head.relative_coordinates:
        grad_references.zero_()
    run_kernel(
        sum_kernel,
        head,
        lambda arguments: sum_variant(arguments, head),
        instances,
        (partials, params, grad_params, grad_references),
        (G, T, num_tiles),
    )
    return (
        grad_features if needs_features else None,
        grad_params if needs_params else None,
        grad_references if needs_params else None,
    )


def run_kernel(
    kernel: Any,
    form: Hashable,
    make: Callable[[dict[str, Any]], KernelVariant],
    programs: int,
    tensors: tuple[Tensor, ...],
    numbers: tuple[int, ...],
) -> None:
    """Launch with arguments in the kernel's order; the rest as `launch_of`."""
    launch = launch_of(kernel, form, make, tensors, numbers)
    launch.run(programs, tensors[0].device, *tensors, *numbers)


def forward_variant(
    arguments: dict[str, Any], head: MaskHeadConfig, config: LaunchConfig
) -> KernelVariant:
    """How the forward kernel is compiled for these arguments (tensors or dtypes)."""
    constants = network_constants(head) | {"F": head.upsample, "CELLS": config.cells}
    constants |= {"BP": 32 * config.num_warps}
    return variant_of(forward_kernel, arguments, constants, config)


def gradient_variant(
    arguments: dict[str, Any], head: MaskHeadConfig, config: BackwardConfig
) -> KernelVariant:
    """How the kernel for gradients of features and partial sums of parameters is compiled."""
    constants = network_constants(head) | {"F": head.upsample, "UNITS": _units(head, config)}
    constants |= {"PARAMETER_E": config.parameter_cells, "FEATURE_E": config.feature_cells}
    return variant_of(gradient_kernel, arguments, constants | {"BP": 32 * config.num_warps}, config)


def sum_variant(arguments: dict[str, Any], head: MaskHeadConfig) -> KernelVariant:
    """How the kernel that adds up partial sums is compiled."""
    constants = network_constants(head) | {"BG": 1 << (head.num_params - 1).bit_length()}
    return variant_of(sum_kernel, arguments, constants, tiles.SUM)


def variant_of(
    kernel: Any,
    arguments: dict[str, Any],
    constants: dict[str, Any],
    config: LaunchConfig | BackwardConfig,
) -> KernelVariant:
    """A variant whose programs have a lane for each column of cells."""
    types = {name: argument_type(value) for name, value in arguments.items()}
    return KernelVariant(
        kernel=kernel,
        types=types,
        constants=constants,
        num_warps=config.num_warps,
        max_registers=config.max_registers,
        rows=32 * config.num_warps,
    )


def network_constants(head: MaskHeadConfig) -> dict[str, int]:
    """Constants of every kernel that evaluates the network."""
    return {
        "C": head.channels,
        "D": head.hidden_width,
        "LAYERS": head.num_layers,
        "R": int(head.relative_coordinates),
    }


def contiguous(inputs: MaskHeadInputs) -> MaskHeadInputs:
    """Raises: ValueError for float64."""
    if inputs.compute_dtype == torch.float64:
        raise ValueError(
            "float64 has no Triton kernel of the dynamic mask head; use float32, or the backend "
            "'reference'"
        )
    return MaskHeadInputs(*[tensor.contiguous() for tensor in inputs])


@lru_cache(maxsize=1024)
def row_tiles(
    h: int, columns: int, columns_per_lane: int, lanes: int, frames: int, rows: int
) -> tuple[int, int]:
    """Rows of a lane's tile, and programs per frame: high tiles where there is work for all of the
    GPU, since every tile evaluates one row more."""
    per_row = -(-columns // columns_per_lane)
    high = tiles.MOST_ROWS
    while high > 1 and frames * per_row * -(-rows // high) < tiles.ENOUGH_LANES:
        high //= 2
    return high, -(-per_row * -(-rows // high) // lanes)


@lru_cache(maxsize=256)
def forward_config(capability: int, head: MaskHeadConfig) -> LaunchConfig:
    """The entry; its bound on registers is for the default head."""
    config = entry_for(tiles.FORWARD, capability)
    is_default = replace(head, stride=MaskHeadConfig.stride) == MaskHeadConfig()
    return config if is_default else replace(config, max_registers=None)


@lru_cache(maxsize=256)
def backward_config(capability: int, head: MaskHeadConfig) -> BackwardConfig:
    """The entry; a wide or deep network leaves registers for half as many cells."""
    config = entry_for(tiles.BACKWARD, capability)
    return config.halved() if head.hidden_width > 8 or head.num_layers > 3 else config


@lru_cache(maxsize=256)
def programs_of(head: MaskHeadConfig, config: BackwardConfig) -> int:
    """Programs that share the parameters of an instance: one, or one or more per hidden layer."""
    units = _units(head, config)
    return 1 if units > head.hidden_width else (head.num_layers - 1) * head.hidden_width // units


def _units(head: MaskHeadConfig, config: BackwardConfig) -> int:
    """Units of a layer whose sums a program keeps in registers; more than a layer has: all sums."""
    if head.num_params <= config.max_sums:
        return head.num_params
    return head.hidden_width if head.hidden_width * (head.inputs + 1) <= tiles.MAX_SUMS else 4


@lru_cache(maxsize=1024)
def tile_cells_of(cells: int, works: int, config: BackwardConfig) -> int:
    """Cells that a program sums parameter gradients over: many, since every program ends with a sum
    over its lanes, as long as there is work enough for many.

    Args:
        works: of a launch whose tiles are whole frames: a program that sums all layers has one
            for each.
    """
    block = config.block(max(config.parameter_cells, config.feature_cells))
    blocks = tiles.MOST_BLOCKS
    while blocks > 1 and works * -(-cells // (blocks * block)) < tiles.ENOUGH_PROGRAMS:
        blocks //= 2
    return blocks * block
