"""Multi-scale deformable attention (Deformable DETR, Zhu et al. 2021, eq. 3): the public functions.

Every query looks, per head, at P points on each of L feature levels, reads them bilinearly and
blends them with its own weights. Letters: B images, S tokens (all levels, concatenated), M heads,
D channels per head, Q queries, L levels, P points.

`ms_deform_attn` is the drop-in operator of the field. `ms_deform_attn_fused` takes what the linear
layers of a model give, raw offsets and logits, and does softmax, placing and padding on the way.
Definition: `reference.py`. Operators: `op.py`. GPU: `triton_forward.py`, CPU:
`cpu.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..backend import explained_by, is_reference_chosen
from . import cpu, op, reference
from .op import Shapes

SpatialShapes = Sequence[tuple[int, int]] | Tensor


@explained_by(cpu.why_not_compiled)
def ms_deform_attn(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sample every level at P points per head and blend them (Deformable DETR, eq. 3).

    Args:
        value: [B, S, M, D], any float dtype; blended in float32.
        spatial_shapes: L pairs (height, width), host integers; their areas sum to S, in the order
            of the tokens. A tensor is converted, which waits for a GPU if it lies there.
        sampling_locations: [B, Q, M, L, P, 2], (x, y) over the whole level, 0..1 from border to
            border (pixel position = location * size - 0.5); outside reads zero, and so do
            coordinates that are not finite, with a gradient of zero. Any float dtype, but half
            precision moves points by up to 0.1 cells; autocast changes nothing here.
        attention_weights: [B, Q, M, L, P], already normalised over L*P; any float dtype.

    Returns: [B, Q, M*D], contiguous, in value's dtype; differentiable once in all three tensors. On
        a GPU the gradient of value is summed in any order, unless
        torch.use_deterministic_algorithms(True).
    Raises: ValueError naming the argument and both shapes when they disagree.
    """
    shapes = _host_shapes(spatial_shapes)
    _check(value, shapes, sampling_locations, attention_weights, _DROP_IN)
    if sampling_locations.shape[0] != value.shape[0]:
        raise ValueError(
            f"sampling_locations must have B = {value.shape[0]} images as value has, got "
            f"{list(sampling_locations.shape)}"
        )
    if is_reference_chosen(value, sampling_locations, attention_weights):
        return reference.ms_deform_attn(value, shapes, sampling_locations, attention_weights)
    return op.attend(value, sampling_locations, attention_weights, None, None, shapes)


@explained_by(cpu.why_not_compiled)
def ms_deform_attn_fused(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
    valid_shapes: Tensor | None = None,
) -> Tensor:
    """`ms_deform_attn` from raw projections: softmax, placing and padding included.

    Softmaxed weights, sampling locations and a masked copy of value are never stored, forward or
    backward. Images in a row may share queries, references and padding (the frames of a clip): then
    their leading axis is B / a instead of B, and image b uses entry b // a.

    Args:
        value: [B, S, M, D], any float dtype, not masked.
        spatial_shapes: as in `ms_deform_attn`.
        offsets: [B or B / a, Q, M, L, P, 2], (x, y) from the reference: in cells of the level for a
            point, in 2P-ths of its width and height for a box.
        logits: [B or B / a, Q, M, L, P]; the softmax is over L*P.
        reference_points: [B or B / b, Q, L, 2] points (x, y) or [B or B / b, Q, L, 4] boxes
            (cx, cy, w, h), shares of the whole level.
        valid_shapes: [B or B / c, L, 2] integers on value's device: (height, width) of the region
            at the top left of each level that counts; the rest reads zero and gets no gradient.
            None when all of it counts.

    Returns: [B, Q, M*D] as `ms_deform_attn`; differentiable once in value, offsets, logits and
        reference_points.
    Raises: ValueError naming the argument and both shapes when they disagree.
    """
    shapes = _host_shapes(spatial_shapes)
    _check(value, shapes, offsets, logits, _FUSED)
    _check_reference(value, shapes, offsets, reference_points, valid_shapes)
    if is_reference_chosen(value, offsets, logits, reference_points):
        return reference.ms_deform_attn_fused(
            value, shapes, offsets, logits, reference_points, valid_shapes
        )
    if valid_shapes is not None:
        valid_shapes = valid_shapes.to(torch.int32)
    return op.attend(value, offsets, logits, reference_points, valid_shapes, shapes)


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """`ms_deform_attn` in plain PyTorch: the definition."""
    shapes = _host_shapes(spatial_shapes)
    _check(value, shapes, sampling_locations, attention_weights, _DROP_IN)
    return reference.ms_deform_attn(value, shapes, sampling_locations, attention_weights)


def ms_deform_attn_fused_reference(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
    valid_shapes: Tensor | None = None,
) -> Tensor:
    """`ms_deform_attn_fused` in plain PyTorch: the definition."""
    shapes = _host_shapes(spatial_shapes)
    _check(value, shapes, offsets, logits, _FUSED)
    _check_reference(value, shapes, offsets, reference_points, valid_shapes)
    return reference.ms_deform_attn_fused(
        value, shapes, offsets, logits, reference_points, valid_shapes
    )


_DROP_IN = ("sampling_locations", "attention_weights")
_FUSED = ("offsets", "logits")


def _host_shapes(spatial_shapes: SpatialShapes) -> Shapes:
    if isinstance(spatial_shapes, Tensor):
        spatial_shapes = spatial_shapes.tolist()
    pairs = tuple(spatial_shapes)
    if is_compiling():
        return _as_shapes(pairs)
    try:
        return _known_shapes(pairs)
    except TypeError:  # pairs that are lists, or sizes that are symbols, have no hash
        return _as_shapes(pairs)


def _as_shapes(pairs: Sequence[Sequence[int]]) -> Shapes:
    shapes = tuple((int(h), int(w)) for h, w in pairs)
    if not shapes or any(h < 1 or w < 1 for h, w in shapes):
        raise ValueError(
            f"spatial_shapes must be positive (height, width) pairs, got {list(shapes)}"
        )
    return shapes


_known_shapes = lru_cache(maxsize=1024)(_as_shapes)


@lru_cache(maxsize=1024)
def _tokens(shapes: Shapes) -> int:
    return sum(h * w for h, w in shapes)


def _fits(value: Tensor, shapes: Shapes, points: Tensor, weights: Tensor) -> bool:
    """Whether all is as it should be; quick, where `_check` says what is not."""
    if value.dim() != 4 or points.dim() != 6:
        return False
    B, S, M, _ = value.shape
    n, _, *samples, two = size = points.shape
    return (
        tuple(samples[:2]) == (M, len(shapes))
        and two == 2
        and weights.shape == size[:5]
        and _tokens(shapes) == S
        and (n == B or (n > 0 and B % n == 0))
        and value.is_floating_point()
        and points.is_floating_point()
        and weights.is_floating_point()
        and value.device == points.device == weights.device
    )


def _check(
    value: Tensor,
    shapes: Shapes,
    points: Tensor,
    weights: Tensor,
    names: tuple[str, str],
) -> None:
    """Ranks, dtypes, devices and sizes, on the host."""
    if not is_compiling() and _fits(value, shapes, points, weights):
        return
    for name, tensor, letters in (
        ("value", value, "[B, S, M, D]"),
        (names[0], points, "[B, Q, M, L, P, 2]"),
        (names[1], weights, "[B, Q, M, L, P]"),
    ):
        _check_tensor(name, tensor, letters, value)
    B, _, M, _ = value.shape
    if not is_compiling():  # S may be a symbol of its own there: the operator looks when it runs
        op.check_tokens(value, shapes)
    expected = [points.shape[0], points.shape[1], M, len(shapes), points.shape[4], 2]
    if list(points.shape) != expected:
        raise ValueError(
            f"{names[0]} do not fit value {list(value.shape)} and {len(shapes)} levels: "
            f"got {list(points.shape)}, expected [B, Q, M, L, P, 2] = {expected}"
        )
    if list(weights.shape) != expected[:-1]:
        raise ValueError(
            f"{names[1]} do not fit {names[0]} {list(points.shape)}: "
            f"got {list(weights.shape)}, expected [B, Q, M, L, P] = {expected[:-1]}"
        )
    _check_shared(names[0], points, B)


def _check_reference(
    value: Tensor,
    shapes: Shapes,
    offsets: Tensor,
    reference_points: Tensor,
    valid_shapes: Tensor | None,
) -> None:
    _check_tensor("reference_points", reference_points, "[B, Q, L, 2 or 4]", value)
    B, Q, L = value.shape[0], offsets.shape[1], len(shapes)
    n, *given, numbers = reference_points.shape
    if given != [Q, L] or numbers not in (2, 4):
        raise ValueError(
            f"reference_points do not fit offsets {list(offsets.shape)}: got "
            f"{[n, *given, numbers]}, expected [B, Q, L, 2 or 4] = {[B, Q, L]} + 2 or 4"
        )
    _check_shared("reference_points", reference_points, B)
    if valid_shapes is None:
        return
    if valid_shapes.dim() != 3 or list(valid_shapes.shape[1:]) != [L, 2]:
        raise ValueError(
            f"valid_shapes must be [B, L, 2] = {[B, L, 2]}, got {list(valid_shapes.shape)}"
        )
    if valid_shapes.is_floating_point() or valid_shapes.device != value.device:
        raise ValueError(
            f"valid_shapes must be integers on {value.device}, got {valid_shapes.dtype} on "
            f"{valid_shapes.device}"
        )
    _check_shared("valid_shapes", valid_shapes, B)


def _check_tensor(name: str, tensor: Tensor, letters: str, value: Tensor) -> None:
    if tensor.dim() != letters.count(",") + 1:
        raise ValueError(f"{name} must be {letters}, got shape {list(tensor.shape)}")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor, got {tensor.dtype}")
    if tensor.device != value.device:
        raise ValueError(f"{name} is on {tensor.device} but value is on {value.device}")


def _check_shared(name: str, tensor: Tensor, B: int) -> None:
    """The leading axis is B, or divides it."""
    given = tensor.shape[0]
    if given != B and (given == 0 or B % given):
        raise ValueError(
            f"{name} has {given} images, which neither is nor divides the B = {B} of value: got "
            f"{list(tensor.shape)}"
        )
