"""Deformable attention in forms that other programs run; signature of `ms_deform_attn_fused`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor

from .._kernels import kernels

Shapes = Sequence[tuple[int, int]]
PLUGIN = "trt.plugins::MultiscaleDeformableAttnPlugin_TRT"
"""Domain and name of TensorRT's node; TensorRT looks at the name alone."""
Sampling = Callable[[Tensor, Shapes, Tensor, Tensor, Tensor, Tensor | None], Tensor]


def in_plain_operators(
    value: Tensor,
    shapes: Shapes,
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    valid_shapes: Tensor | None = None,
) -> Tensor:
    """A `grid_sample` per level, which ONNX has as GridSample."""
    _refuse_padding(valid_shapes)
    B, _, M, D = value.shape
    Q = offsets.shape[1]
    locations, weights = placed(value, shapes, offsets, logits, reference)
    grid = (2 * locations - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # [B*M, L, Q, P, 2]
    weights = weights.permute(0, 2, 3, 1, 4).flatten(0, 1)  # [B*M, L, Q, P]
    levels = value.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in shapes], dim=2)
    parts = []
    for level, (tokens, (h, w)) in enumerate(zip(levels, shapes, strict=True)):
        sampled = F.grid_sample(tokens.reshape(B * M, D, h, w), grid[:, level], align_corners=False)
        parts.append((sampled * weights[:, level, None]).sum(-1))  # [B*M, D, Q]
    return torch.stack(parts).sum(0).view(B, M * D, Q).transpose(1, 2)


def by_tensorrt_plugin(
    value: Tensor,
    shapes: Shapes,
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    valid_shapes: Tensor | None = None,
) -> Tensor:
    """A node `MultiscaleDeformableAttnPlugin_TRT`, for ONNX only: eager, it computes nothing.

    Its inputs are value [B, S, M, D], spatial_shapes [L, 2] (height, width) and level_start_index
    [L], both int32, sampling_locations [B, Q, M, L, P, 2] in 0..1 and attention_weights
    [B, Q, M, L, P]; its output is [B, Q, M, D].
    """
    _refuse_padding(valid_shapes)
    B, _, M, D = value.shape
    Q = offsets.shape[1]
    locations, weights = placed(value, shapes, offsets, logits, reference)
    sizes = torch.stack([_scalar(n, torch.int32) for shape in shapes for n in shape]).view(-1, 2)
    starts, start = [], 0
    for h, w in shapes:
        starts.append(_scalar(start, torch.int32))
        start = start + h * w
    sampled = torch.onnx.ops.symbolic(
        PLUGIN,
        (value, sizes, torch.stack(starts), locations, weights),
        {"plugin_version": "1", "plugin_namespace": ""},
        dtype=value.dtype,
        shape=(B, Q, M, D),
        version=1,
    )
    return sampled.flatten(2)


def by_triton_kernel(
    value: Tensor,
    shapes: Shapes,
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    valid_shapes: Tensor | None = None,
) -> Tensor:
    """An operator whose kernel AOTInductor puts into a package; for up to four levels, whose sides
    are 2 at least."""
    _refuse_padding(valid_shapes)
    operators = import_module(f"{kernels.__name__}.deformable_attention.triton_in_graph")
    sides = [side for shape in shapes for side in shape]
    sampled: Tensor = operators.forward(value, offsets, logits, reference, sides)
    return sampled


def placed(
    value: Tensor, shapes: Shapes, offsets: Tensor, logits: Tensor, reference: Tensor
) -> tuple[Tensor, Tensor]:
    """Sampling locations [B, Q, M, L, P, 2] in 0..1 and weights [B, Q, M, L, P]."""
    B, P = value.shape[0], offsets.shape[4]
    anchors = reference[:, :, None, :, None]
    if reference.shape[-1] == 2:
        sides = [_scalar(n, value.dtype) for h, w in shapes for n in (w, h)]
        locations = anchors + offsets / torch.stack(sides).view(-1, 1, 2)
    else:
        centre, extent = anchors.split([2, 2], dim=-1)
        locations = centre + offsets / P * extent * 0.5
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    return _per_image(locations, B), _per_image(weights, B)


def _refuse_padding(valid_shapes: Tensor | None) -> None:
    if valid_shapes is not None:
        raise ValueError("an exported graph takes frames without padding")


def _scalar(number: int, dtype: torch.dtype) -> Tensor:
    return torch.full((), number, dtype=dtype)


def _per_image(x: Tensor, B: int) -> Tensor:
    """[B or B / a, ...] -> [B, ...], repeated for images in a row."""
    shared = B // x.shape[0]
    return x[:, None].expand(-1, shared, *x.shape[1:]).flatten(0, 1)
