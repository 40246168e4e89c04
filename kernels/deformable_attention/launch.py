"""From tensors to launches of the deformable attention kernels, and the variants they come in.

Inputs are checked already (`__init__.py`). Layout of a program: `triton_forward.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..device import facts
from ..launch import (
    KernelVariant,
    aligned,
    argument_type,
    launch_of,
    sum_of_shared,
    table_capability,
)
from . import launch_merged, tiles
from .tiles import LaunchConfig
from .triton_backward import backward_kernel
from .triton_forward import BOXES, LOCATIONS, POINTS, forward_kernel

Shapes = tuple[tuple[int, int], ...]

MAX_IMAGES = 2**15
"""Of a launch: the number of an image is divided exactly up to here (`triton_forward.shared`)."""


def forward(
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: Shapes,
) -> Tensor:
    """One launch for all images. Arguments as `op.forward`; returns [B, Q, M*D]."""
    B, S, M, D = value.shape
    Q = points.shape[1]
    if 0 in (B, Q, M, D, points.shape[4]):
        return value.new_zeros(B, Q, M * D)
    output = value.new_empty((B, Q, M * D))
    levels = _levels(shapes, S * M * D)
    config = _config(tiles.FORWARD, value, points)
    form = _form(value, points, reference, valid, levels)
    _run(
        forward_kernel,
        (form, config),
        lambda arguments: forward_variant(arguments, _sizes(form), config),
        (*_tensors(value, points, weights, reference, valid), output),
        levels.codes,
    )
    return output


def backward(
    grad_output: Tensor,
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: Shapes,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """One launch for all images, besides zeroing and converting the gradient of value.
    Where queries are many, those of `launch_merged.py`.

    Args:
        needs: whether gradients of value, of points and weights, and of reference are asked for.

    Returns: gradients of value, points, weights and reference in their shapes and dtypes; None
        where not asked for.
    """
    B, _, M, _ = value.shape
    _, Q, _, L, P, _ = points.shape
    needs_value, needs_samples, needs_reference = needs
    if grad_output.numel() == 0 or P == 0:
        is_needed = (needs_value, needs_samples, needs_samples, needs_reference)
        inputs = (value, points, weights, reference)
        return tuple(
            torch.zeros_like(x, memory_format=torch.contiguous_format)
            if n and x is not None
            else None
            for x, n in zip(inputs, is_needed, strict=True)
        )
    is_deterministic = needs_value and torch.are_deterministic_algorithms_enabled()
    needs_rows = needs_samples or needs_reference
    tensors = _tensors(value, points, weights, reference, valid)
    levels = _levels(shapes, value.shape[1] * M * value.shape[3])
    form = _form(value, points, reference, valid, levels)
    if needs_value and needs_samples and not (needs_reference or is_deterministic):
        merged = launch_merged.config_of(value, points, levels.is_large)
        if merged is not None:
            shares = (_share(B, tensors[1]), _share(B, tensors[3]), _share(B, tensors[4]))
            sums = launch_merged.backward(
                (form, merged), _sizes(form), levels.codes, shares, tensors, aligned(grad_output)
            )
            return sums[0].to(value.dtype), *map(sum_of_shared, sums[1:], tensors[1:3]), None
    unused = tensors[1]
    scale, inverse = unused, None
    if is_deterministic:
        given_weights = weights if reference is None else None
        scale, inverse = _fixed_scale(grad_output, given_weights, Q, L * P)
    grad_value = grad_points = grad_weights = grad_reference = unused
    if needs_value:
        total_dtype = torch.int64 if is_deterministic else torch.float32
        grad_value = value.new_zeros(value.shape, dtype=total_dtype)
    if needs_rows:
        grad_points = value.new_empty((B, Q, M, L, P, 2), dtype=torch.float32)
        grad_weights = value.new_empty((B, Q, M, L, P), dtype=torch.float32)
    if needs_reference and reference is not None:
        numbers = reference.shape[-1]
        grad_reference = value.new_empty((B, Q, M, L, numbers), dtype=torch.float32)
    grads = (grad_value, grad_points, grad_weights, grad_reference)

    # Whole numbers are added one by one on every GPU.
    config = _config(tiles.BACKWARD, value, points, is_scalar=is_deterministic)
    flags = (needs_value, needs_rows, needs_reference, is_deterministic)
    _run(
        backward_kernel,
        (form, config, flags),
        lambda arguments: backward_variant(
            arguments, _sizes(form) | dict(zip(_FLAGS, flags, strict=True)), config
        ),
        (*tensors, aligned(grad_output), scale, *grads),
        levels.codes,
    )
    if inverse is not None:
        grad_value = grad_value.to(torch.float32).mul_(inverse)
    d_reference = None
    if needs_reference and reference is not None:
        d_reference = sum_of_shared(grad_reference.sum(2), reference)
    return (
        grad_value.to(value.dtype) if needs_value else None,
        sum_of_shared(grad_points, points) if needs_samples else None,
        sum_of_shared(grad_weights, weights) if needs_samples else None,
        d_reference,
    )


_FLAGS = ("NEEDS_VALUE", "NEEDS_SAMPLES", "NEEDS_REFERENCE", "DETERMINISTIC")


def forward_variant(
    arguments: dict[str, Any], sizes: dict[str, Any], config: LaunchConfig
) -> KernelVariant:
    """How the forward kernel is compiled for these arguments (tensors or dtypes)."""
    dtype = _dtype(arguments["value"])
    D = sizes["D"]
    is_paired = dtype == torch.bfloat16 and D % 2 == 0
    unit = 2 if is_paired else 1
    vec = 16 // (4 if is_paired else dtype.itemsize)
    heads = _heads(sizes["M"], D * dtype.itemsize)
    layout = _layout(D // unit, config.num_warps, config.channels_per_lane // unit, vec, heads)
    return _variant(
        forward_kernel, arguments, sizes | layout | {"D": D // unit, "PAIRED": is_paired}, config
    )


def backward_variant(
    arguments: dict[str, Any], sizes: dict[str, Any], config: LaunchConfig
) -> KernelVariant:
    """How the backward kernel is compiled for these arguments (tensors or dtypes)."""
    # Four floats are what one reduction instruction adds at most.
    vec = 1 if config.scalar else 4
    heads = _heads(sizes["M"], sizes["D"] * _dtype(arguments["value"]).itemsize)
    layout = _layout(sizes["D"], config.num_warps, config.channels_per_lane, vec, heads)
    # The lanes of a row read all of it, four channels each.
    layout["SPLIT"] = vec == 1 and layout["VECTORS"] == 4 and layout["LANES"] * 4 == sizes["D"]
    if sizes["NEEDS_REFERENCE"] or sizes["DETERMINISTIC"]:
        config = replace(config, max_registers=config.max_registers or tiles.MORE_REGISTERS)
    return _variant(backward_kernel, arguments, sizes | layout, config)


def _variant(
    kernel: Any, arguments: dict[str, Any], constants: dict[str, Any], config: LaunchConfig
) -> KernelVariant:
    types = {name: argument_type(value) for name, value in arguments.items()}
    return KernelVariant(
        kernel=kernel,
        types=types,
        constants=constants,
        num_warps=config.num_warps,
        max_registers=config.max_registers,
        rows=constants["BQ"] * constants["HEADS"],
        trips=constants["L"],
    )


def _layout(D: int, num_warps: int, channels_per_lane: int, vec: int, heads: int) -> dict[str, int]:
    """The layout of a program: powers of two that cover D channels (see triton_forward).

    Args:
        channels_per_lane: at most four vectors of vec of them, and at least one.
        heads: of neighbouring rows.
    """
    padded = _power_of_two(D)
    vec = min(vec, padded)
    vectors = min(max(channels_per_lane // vec, 1), padded // vec, 4)
    lanes = padded // (vec * vectors)
    rows = max(num_warps * 32 // lanes, heads)
    return {"BQ": rows // heads, "HEADS": heads, "VECTORS": vectors, "LANES": lanes, "VEC": vec}


def _heads(M: int, row_bytes: int) -> int:
    """How many heads of a cell lie in a 128-byte line of value: a power of two that divides M."""
    return math.gcd(M, 1 << max(128 // row_bytes, 1).bit_length() - 1)


def _config(
    table: dict[int, LaunchConfig], value: Tensor, points: Tensor, is_scalar: bool = False
) -> LaunchConfig:
    device = table_capability(facts().capability(value.device))
    config = table[80 if is_scalar and not table[device].scalar else device]
    if facts().is_interpreted(value.device):
        return replace(config, num_warps=tiles.INTERPRETER_WARPS)
    # Queries that are tokens are many, whatever the size of the images; another rule would compile
    # a second form when sizes change.
    S, Q = value.shape[1], points.shape[1]
    return config if Q == S or Q * value.shape[2] >= tiles.FEW_ROWS else _of_one_warp(config)


@lru_cache(maxsize=64)
def _of_one_warp(config: LaunchConfig) -> LaunchConfig:
    return replace(config, num_warps=1)


class _Levels(NamedTuple):
    """Sizes of the levels, as the kernels take them.

    Attributes:
        codes: height and width of every level in one number, `height << 16 | width << 1 | 1`, or
            with `height << 32` if they are large. Odd, since Triton compiles anew for numbers of a
            tuple that are 1 or that 16 divides, whatever a kernel says of specialisation.
        is_narrow: whether a level is one cell wide or high.
        is_large: whether offsets need 64 bits, or sizes more than 15.
    """

    codes: tuple[int, ...]
    is_narrow: bool
    is_large: bool


@lru_cache(maxsize=1024)
def _levels(shapes: Shapes, elements: int) -> _Levels:
    """Args:
    elements: of an image of value.
    """
    tokens = sum(height * width for height, width in shapes)
    longest = max(max(pair) for pair in shapes)
    is_large = elements >= 2**31 or tokens >= 2**24 or longest >= 2**15
    shift = 32 if is_large else 16
    return _Levels(
        codes=tuple(height << shift | width << 1 | 1 for height, width in shapes),
        is_narrow=any(1 in pair for pair in shapes),
        is_large=is_large,
    )


class _Form(NamedTuple):
    """What both kernels are compiled for, besides dtypes and a config.

    Attributes:
        numbers: of a reference: 2 for points, 4 for boxes; None where there is none.
        The rest: as in the kernels and in `_Levels`.
    """

    M: int
    D: int
    L: int
    P: int
    numbers: int | None
    has_valid: bool
    is_narrow: bool
    is_large: bool


def _form(
    value: Tensor, points: Tensor, reference: Tensor | None, valid: Tensor | None, levels: _Levels
) -> _Form:
    _, _, M, D = value.shape
    numbers = None if reference is None else reference.shape[-1]
    is_narrow, is_large = levels.is_narrow, levels.is_large
    L, P = points.shape[3:5]
    return _Form(M, D, L, P, numbers, valid is not None, is_narrow, is_large)


@lru_cache(maxsize=64)
def _sizes(form: _Form) -> dict[str, Any]:
    """Constants that both kernels have; not to be changed."""
    return {
        "M": form.M,
        "D": form.D,
        "L": form.L,
        "P": form.P,
        "F": _group(form.P),
        "SAMPLES": _power_of_two(form.L * form.P),
        "KIND": {None: LOCATIONS, 2: POINTS, 4: BOXES}[form.numbers].value,
        "HAS_VALID": form.has_valid,
        "NARROW": form.is_narrow,
        "LARGE": form.is_large,
    }


def _tensors(
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The first arguments of both kernels; an absent one has a stand-in that is never read."""
    points = aligned(points)
    return (
        aligned(value),
        points,
        aligned(weights),
        points if reference is None else aligned(reference),
        points if valid is None else valid.contiguous(),
    )


def _run(
    kernel: Any,
    form: Hashable,
    make: Callable[[dict[str, Any]], KernelVariant],
    tensors: tuple[Tensor, ...],
    codes: tuple[int, ...],
) -> None:
    """Launch on the grid of `triton_forward.place`; arguments as `launch_of`.

    Raises: ValueError: more images than a launch takes.
    """
    value, points, _, reference, valid, *_ = tensors
    B, S, M, _ = value.shape
    Q = points.shape[1]
    if B > MAX_IMAGES:
        raise ValueError(f"value has B = {B} images, more than {MAX_IMAGES}; split the batch")
    shares = (_share(B, points), _share(B, reference), _share(B, valid))
    others = (codes, Q, S, *shares)
    launch = launch_of(kernel, form, make, tensors, others)
    constants = launch.variant.constants
    grid = (-(-Q // constants["BQ"]), M // constants["HEADS"], B)
    launch.run(grid, value.device, *tensors, *others)


def _share(B: int, shared: Tensor) -> int:
    """What `triton_forward.shared` multiplies by. Exact up to MAX_IMAGES."""
    return -(-(shared.shape[0] << 30) // B)


def _power_of_two(n: int) -> int:
    """The next one, from n itself."""
    return 1 << (n - 1).bit_length()


def _group(P: int) -> int:
    """Logits of a row that one load takes."""
    return 4 if P % 4 == 0 else 2 if P % 2 == 0 else 1


def _fixed_scale(
    grad_output: Tensor, weights: Tensor | None, Q: int, samples: int
) -> tuple[Tensor, Tensor]:
    """Power of two that turns contributions to a cell into whole numbers, and its inverse; [1].

    A cell gets at most the largest gradient times the largest weight from each sample of each query
    (with softmax, times one from each query), and 62 bits must hold that. Not finite gradients give
    NaN. Stays on the device.

    Args:
        weights: None where a softmax makes them.
    """
    bound = grad_output.detach().abs().amax().float()
    terms = Q
    if weights is not None:
        bound = bound * weights.detach().abs().amax().float()
        terms = Q * samples
    _, exponent = torch.frexp(bound)
    is_finite = bound.isfinite()
    exponent = torch.where(is_finite, exponent, 0)
    exponent = (62 - terms.bit_length() - exponent).clamp(-120, 120).float()
    inverse = torch.where(is_finite, torch.exp2(-exponent), float("nan"))
    return torch.exp2(exponent).reshape(1), inverse


def _dtype(x: Tensor | torch.dtype) -> torch.dtype:
    return x.dtype if isinstance(x, Tensor) else x
