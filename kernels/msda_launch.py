"""From tensors to launches of the deformable attention kernels, and the variants they come in.

Inputs are checked already (`msda.py`). Layout of a program: `msda_triton.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import msda_table
from .device import facts
from .launch import Case, Variant, family, pointer_type, sum_of_shared
from .msda_table import Tile
from .msda_triton import BOXES, LOCATIONS, POINTS, forward_kernel
from .msda_triton_backward import backward_kernel

Shapes = tuple[tuple[int, int], ...]

MAX_SHORT_AXIS = 65_535
"""Largest grid along its second and third axes."""


def forward(
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: Shapes,
) -> Tensor:
    """One launch for all images. Arguments as `msda_ops.forward`; returns [B, Q, M*D]."""
    B, _, M, D = value.shape
    Q = points.shape[1]
    if 0 in (B, Q, M, D, points.shape[4]):
        return value.new_zeros(B, Q, M * D)
    output = value.new_empty(B, Q, M * D)
    arguments = _shared_arguments(value, points, weights, reference, valid, shapes)
    variant = forward_variant(
        arguments | {"output": output},
        _sizes(value, points, reference, valid, shapes),
        _tile(msda_table.FORWARD, value, points),
    )
    _run(variant, B, M, Q, arguments | {"output": output})
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

    Args:
        needs: whether gradients of value, of points and weights, and of reference are asked for.

    Returns: gradients of value, points, weights and reference in their shapes and dtypes; None
        where not asked for.
    """
    B, _, M, _ = value.shape
    _, Q, _, L, P, _ = points.shape
    needs_value, needs_samples, needs_reference = needs
    if grad_output.numel() == 0 or P == 0:
        wanted = (needs_value, needs_samples, needs_samples, needs_reference)
        inputs = (value, points, weights, reference)
        return tuple(
            torch.zeros_like(x, memory_format=torch.contiguous_format) if want else None
            for x, want in zip(inputs, wanted, strict=True)
        )
    is_fixed = needs_value and torch.are_deterministic_algorithms_enabled()
    needs_rows = needs_samples or needs_reference
    unused = value.new_empty(0, dtype=torch.float32)
    scale, inverse = unused, None
    if is_fixed:
        given_weights = weights if reference is None else None
        scale, inverse = _fixed_scale(grad_output, given_weights, Q, L * P)

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=value.device)

    total_dtype = torch.int64 if is_fixed else torch.float32
    grad_value = torch.zeros(
        value.shape if needs_value else 0, dtype=total_dtype, device=value.device
    )
    grad_points = new(B, Q, M, L, P, 2) if needs_rows else unused
    grad_weights = new(B, Q, M, L, P) if needs_rows else unused
    grad_reference = new(B, Q, M, L, reference.shape[-1]) if needs_reference else unused
    arguments = _shared_arguments(value, points, weights, reference, valid, shapes) | {
        "grad_output": grad_output.contiguous(),
        "fixed_scale": scale,
        "grad_value": grad_value,
        "grad_points": grad_points,
        "grad_weights": grad_weights,
        "grad_reference": grad_reference,
    }
    flags = {
        "NEEDS_VALUE": needs_value,
        "NEEDS_SAMPLES": needs_rows,
        "NEEDS_REFERENCE": needs_reference,
        "FIXED": is_fixed,
    }
    # Whole numbers are added one by one on every GPU.
    tile = _tile(msda_table.BACKWARD, value, points, is_scalar=is_fixed)
    sizes = _sizes(value, points, reference, valid, shapes) | flags
    _run(backward_variant(arguments, sizes, tile), B, M, Q, arguments)
    if is_fixed:
        grad_value = grad_value.to(torch.float32).mul_(inverse)
    return (
        grad_value.to(value.dtype) if needs_value else None,
        sum_of_shared(grad_points, points) if needs_samples else None,
        sum_of_shared(grad_weights, weights) if needs_samples else None,
        sum_of_shared(grad_reference.sum(2), reference) if needs_reference else None,
    )


def forward_variant(arguments: dict[str, Any], sizes: dict[str, Any], tile: Tile) -> Variant:
    """How the forward kernel is compiled for these arguments (tensors or dtypes)."""
    dtype = _dtype(arguments["value"])
    D = sizes["D"]
    # Pairs are read as words, which a view that begins at an odd element does not lie on.
    is_paired = dtype == torch.bfloat16 and D % 2 == 0 and _address(arguments["value"]) % 4 == 0
    unit = 2 if is_paired else 1
    vec = 16 // (4 if is_paired else dtype.itemsize)
    heads = _heads(sizes["M"], D * dtype.itemsize)
    layout = _layout(D // unit, tile.num_warps, tile.channels_per_lane // unit, vec, heads)
    return _variant(
        forward_kernel, arguments, sizes | layout | {"D": D // unit, "PAIRED": is_paired}, tile
    )


def backward_variant(arguments: dict[str, Any], sizes: dict[str, Any], tile: Tile) -> Variant:
    """How the backward kernel is compiled for these arguments (tensors or dtypes)."""
    # Four floats are what one reduction instruction adds at most.
    vec = 1 if tile.scalar else 4
    heads = _heads(sizes["M"], sizes["D"] * _dtype(arguments["value"]).itemsize)
    layout = _layout(sizes["D"], tile.num_warps, tile.channels_per_lane, vec, heads)
    # The lanes of a row read all of it, four channels each.
    layout["SPLIT"] = vec == 1 and layout["NA"] == 4 and layout["LANES"] * 4 == sizes["D"]
    return _variant(backward_kernel, arguments, sizes | layout, tile)


def _variant(
    kernel: Any, arguments: dict[str, Any], constants: dict[str, Any], tile: Tile
) -> Variant:
    types = {
        name: "i32" if isinstance(value, int) else pointer_type(value)
        for name, value in arguments.items()
    }
    return Variant(
        kernel=kernel,
        types=types,
        constants=constants,
        num_warps=tile.num_warps,
        max_registers=tile.max_registers,
        rows=constants["BQ"] * constants["HEADS"],
        trips=constants["L"],
    )


def _layout(D: int, num_warps: int, channels_per_lane: int, vec: int, heads: int) -> dict[str, int]:
    """The tile of a program: powers of two that cover D channels (see msda_triton).

    Args:
        channels_per_lane: at most four vectors of vec of them, and at least one.
        heads: of neighbouring rows.
    """
    padded = _power_of_two(D)
    vec = min(vec, padded)
    vectors = min(max(channels_per_lane // vec, 1), padded // vec, 4)
    lanes = padded // (vec * vectors)
    rows = max(num_warps * 32 // lanes, heads)
    return {"BQ": rows // heads, "HEADS": heads, "NA": vectors, "LANES": lanes, "VEC": vec}


def _heads(M: int, row_bytes: int) -> int:
    """How many heads of a cell lie in a 128-byte line of value: a power of two that divides M."""
    in_line = 1 << max(128 // row_bytes, 1).bit_length() - 1
    return math.gcd(M, in_line)


def _tile(table: dict[int, Tile], value: Tensor, points: Tensor, is_scalar: bool = False) -> Tile:
    device = family(facts().capability(value.device))
    tile = table[80 if is_scalar and not table[device].scalar else device]
    if facts().is_interpreted(value.device):
        return replace(tile, num_warps=msda_table.INTERPRETER_WARPS)
    rows = value.shape[0] * value.shape[2] * points.shape[1]
    return replace(tile, num_warps=1) if rows < msda_table.FEW_ROWS else tile


def _shared_arguments(
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: Shapes,
) -> dict[str, Any]:
    """Arguments that both kernels have; an absent tensor is a stand-in that is never read."""
    B, S, _, _ = value.shape
    return {
        "value": value.contiguous(),
        "points": points.contiguous(),
        "weights": weights.contiguous(),
        "reference": points if reference is None else reference.contiguous(),
        "valid": _level_table(shapes, value.device) if valid is None else valid.contiguous(),
        "levels": _level_table(shapes, value.device),
        "Q": points.shape[1],
        "S": S,
        "share_points": B // points.shape[0],
        "share_reference": 1 if reference is None else B // reference.shape[0],
        "share_valid": 1 if valid is None else B // valid.shape[0],
    }


def _sizes(
    value: Tensor,
    points: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: Shapes,
) -> dict[str, Any]:
    """Constants that both kernels have."""
    _, S, M, D = value.shape
    return {
        "M": M,
        "D": D,
        "L": len(shapes),
        "P": points.shape[4],
        "F": _group(points.shape[4]),
        "SAMPLES": _power_of_two(len(shapes) * points.shape[4]),
        "KIND": _kind(None if reference is None else reference.shape[-1]),
        "HAS_VALID": valid is not None,
        "NARROW": any(w == 1 for _, w in shapes),
        "LARGE": S * M * D >= 2**31 or S >= 2**24,
        "SHARES": points.shape[0] != value.shape[0]
        or (reference is not None and reference.shape[0] != value.shape[0])
        or (valid is not None and valid.shape[0] != value.shape[0]),
    }


def _power_of_two(n: int) -> int:
    """The next one, from n itself."""
    return 1 << (n - 1).bit_length()


def _group(P: int) -> int:
    """Logits of a row that one load takes."""
    return 4 if P % 4 == 0 else 2 if P % 2 == 0 else 1


def _kind(numbers: int | None) -> int:
    return {None: LOCATIONS, 2: POINTS, 4: BOXES}[numbers].value


def _run(variant: Variant, B: int, M: int, Q: int, arguments: dict[str, Any]) -> None:
    """Launch on the grid of `msda_triton.place`.

    Raises: ValueError: more images or heads than a grid's second or third axis holds.
    """
    if max(B, M) > MAX_SHORT_AXIS:
        raise ValueError(
            f"B = {B} images of M = {M} heads: a launch takes {MAX_SHORT_AXIS:,} of each at most; "
            "split the batch"
        )
    constants = variant.constants
    variant.run((-(-Q // constants["BQ"]), M // constants["HEADS"], B), arguments)


@lru_cache(maxsize=1024)
def _level_table(shapes: Shapes, device: torch.device) -> Tensor:
    """[L, 3] int32 (height, width, first token), on the device. Made once per list of sizes, and
    without waiting for the device."""
    rows, start = [], 0
    for height, width in shapes:
        rows.append((height, width, start))
        start += height * width
    table = torch.tensor(rows, dtype=torch.int32)
    if device.type == "cuda":
        table = table.pin_memory().to(device, non_blocking=True)
    return table


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


RELATIVES = (
    (16, 4, 4),
    (24, 4, 4),
    (64, 4, 4),
    (32, 1, 4),
    (32, 3, 4),
    (32, 5, 4),
    (32, 4, 1),
    (32, 4, 8),
)
"""D, L, P of other models."""


def compile_cases(capability: int) -> list[Case]:
    """Every launch of the model on a GPU of this compute capability, and those of its relatives."""
    relatives = [
        _case(capability, direction, torch.float32, 2, D=D, L=L, P=P)
        for direction in ("forward", "backward")
        for D, L, P in RELATIVES
    ]
    return _model_cases(capability) + relatives


def _model_cases(capability: int) -> list[Case]:
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    cases = [
        _case(capability, direction, dtype, numbers)
        for direction in ("forward", "backward")
        for dtype in dtypes
        for numbers in (None, 2, 4)
    ]
    # The first decoder layer trains its reference points; the deterministic mode.
    cases.append(_case(capability, "backward", torch.float32, 2, needs_reference=True))
    cases.append(_case(capability, "backward", torch.float32, 2, is_fixed=True))
    return cases


def _case(
    capability: int,
    direction: str,
    dtype: torch.dtype,
    numbers: int | None,
    *,
    D: int = 32,
    L: int = 4,
    P: int = 4,
    needs_reference: bool = False,
    is_fixed: bool = False,
) -> Case:
    """An encoder layer's launch, offline."""
    name = f"msda {direction} {str(dtype).removeprefix('torch.')} "
    name += {None: "locations", 2: "points", 4: "boxes"}[numbers]
    name += " reference" * needs_reference + " deterministic" * is_fixed
    is_model = (D, L, P) == (32, 4, 4)
    if not is_model:
        name += f" D{D} L{L} P{P}"
    real, integer = torch.float32, torch.int32
    arguments: dict[str, Any] = dict.fromkeys(
        ("Q", "S", "share_points", "share_reference", "share_valid"), 1
    )
    arguments |= {"value": dtype, "valid": integer, "levels": integer}
    arguments |= dict.fromkeys(("points", "weights", "reference"), real)
    sizes = {
        "M": 8,
        "D": D,
        "L": L,
        "P": P,
        "F": _group(P),
        "KIND": _kind(numbers),
        "HAS_VALID": numbers is not None,
        "NARROW": False,
        "LARGE": False,
        "SHARES": False,
    }
    if direction == "forward":
        tile = msda_table.FORWARD[family(capability)]
        return Case(
            name=name,
            variant=forward_variant(arguments | {"output": dtype}, sizes, tile),
            is_model=is_model,
        )
    arguments |= {"grad_output": dtype, "fixed_scale": real}
    arguments |= {"grad_value": torch.int64 if is_fixed else real}
    arguments |= dict.fromkeys(("grad_points", "grad_weights", "grad_reference"), real)
    flags = {"NEEDS_VALUE": True, "NEEDS_SAMPLES": True, "NEEDS_REFERENCE": needs_reference}
    tile = msda_table.BACKWARD[80 if is_fixed and family(capability) > 80 else family(capability)]
    variant = backward_variant(arguments, sizes | flags | {"FIXED": is_fixed}, tile)
    return Case(name=name, variant=variant, is_model=is_model)


def _address(x: Tensor | torch.dtype) -> int:
    return x.data_ptr() if isinstance(x, Tensor) else 0


def _dtype(x: Tensor | torch.dtype) -> torch.dtype:
    return x.dtype if isinstance(x, Tensor) else x
