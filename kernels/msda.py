"""Multi-scale deformable attention (Deformable DETR, Zhu et al. 2021, eq. 3).

Every query looks, per head, at P points on each of L feature levels, reads them bilinearly and
blends them with its own weights. Letters: B images, S tokens (all levels, concatenated), M heads,
D channels per head, Q queries, L levels, P points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import is_reference_chosen
from .msda_cpu import ms_deform_attn_cpu

SpatialShapes = Sequence[tuple[int, int]] | Tensor


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """The definition: `grid_sample` on each level, then the weighted sum. Same contract as
    `ms_deform_attn`."""
    shapes = _check(value, spatial_shapes, sampling_locations, attention_weights)
    B, _, M, D = value.shape
    Q = sampling_locations.shape[1]
    grid = (2 * sampling_locations - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # [B*M, L, Q, P, 2]
    weights = attention_weights.permute(0, 2, 3, 1, 4).flatten(0, 1)  # [B*M, L, Q, P]
    compute = torch.promote_types(value.dtype, sampling_locations.dtype)
    output = value.new_zeros(B * M, D, Q, dtype=compute)
    for level, (tokens, (height, width)) in enumerate(
        zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
    ):
        feature = tokens.permute(0, 2, 3, 1).reshape(B * M, D, height, width).to(compute)
        sampled = F.grid_sample(
            feature,
            grid[:, level].to(compute),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )  # [B*M, D, Q, P]
        output = output + (sampled * weights[:, level, None].to(compute)).sum(-1)
    return output.view(B, M * D, Q).transpose(1, 2).contiguous().to(value.dtype)


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sample every level at P points per head and blend them (Deformable DETR, eq. 3).

    Args:
        value: [B, S, M, D], any float dtype.
        spatial_shapes: L pairs (height, width), host integers (a tensor is converted once); their
            areas sum to S, in the order of the tokens.
        sampling_locations: [B, Q, M, L, P, 2], (x, y) over the whole level, 0..1 from border to
            border (pixel position = location * size - 0.5); outside reads zero.
        attention_weights: [B, Q, M, L, P], already normalised over L*P.

    Returns: [B, Q, M*D], contiguous, in value's dtype; differentiable in all three tensors.
    Raises: ValueError naming the argument and both shapes when they disagree.
    """
    shapes = _check(value, spatial_shapes, sampling_locations, attention_weights)
    tensors = (value, sampling_locations, attention_weights)
    if (
        not is_reference_chosen(value)
        and value.device.type == "cpu"
        and all(t.dtype == value.dtype for t in tensors)
        and value.dtype in (torch.float32, torch.float64)
    ):
        return ms_deform_attn_cpu(value, shapes, sampling_locations, attention_weights)
    return ms_deform_attn_reference(value, shapes, sampling_locations, attention_weights)


def _check(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> list[tuple[int, int]]:
    """Host-side checks of the contract; returns the shapes as a list of pairs."""
    if isinstance(spatial_shapes, Tensor):
        spatial_shapes = spatial_shapes.tolist()
    shapes = [(int(h), int(w)) for h, w in spatial_shapes]
    for name, tensor, letters in (
        ("value", value, "[B, S, M, D]"),
        ("sampling_locations", sampling_locations, "[B, Q, M, L, P, 2]"),
        ("attention_weights", attention_weights, "[B, Q, M, L, P]"),
    ):
        if tensor.dim() != letters.count(",") + 1:
            raise ValueError(f"{name} must be {letters}, got shape {list(tensor.shape)}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be a floating-point tensor, got {tensor.dtype}")
        if tensor.device != value.device:
            raise ValueError(f"{name} is on {tensor.device} but value is on {value.device}")
    B, S, M, _ = value.shape
    tokens = sum(h * w for h, w in shapes)
    if tokens != S:
        raise ValueError(
            f"spatial_shapes {shapes} hold {tokens} tokens but value has S = {S}: "
            f"got value {list(value.shape)}, expected [B, S, M, D] with S = {tokens}"
        )
    expected = [B, sampling_locations.shape[1], M, len(shapes), sampling_locations.shape[4], 2]
    if list(sampling_locations.shape) != expected:
        raise ValueError(
            f"sampling_locations do not fit value {list(value.shape)} and {len(shapes)} levels: "
            f"got {list(sampling_locations.shape)}, expected [B, Q, M, L, P, 2] = {expected}"
        )
    if list(attention_weights.shape) != expected[:-1]:
        raise ValueError(
            f"attention_weights do not fit sampling_locations {list(sampling_locations.shape)}: "
            f"got {list(attention_weights.shape)}, expected [B, Q, M, L, P] = {expected[:-1]}"
        )
    return shapes
