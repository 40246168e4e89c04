"""The dynamic mask head of one clip in forms that other programs run."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from .._kernels import kernels
from ..model.masks import MASK_CHANNELS

Drawing = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def draw_masks(features: Tensor, params: Tensor, references_px: Tensor, stride: int) -> Tensor:
    """As `kernels.dynamic_mask_head`, for the N queries of one clip; plain operators.

    Args:
        features: [T, 8, h, w].
        params: [N, 169].
        references_px: [N, T, 2], (x, y) in input pixels.
        stride: input pixels per cell of the features.

    Returns: [N, T, 2h, 2w] logits.
    """
    N = params.shape[0]
    T, channels, h, w = features.shape
    rel_x = references_px[:, :, 0, None, None] - _centres(w, stride)
    rel_y = references_px[:, :, 1, None, None] - _centres(h, stride)[:, None]
    relative = torch.stack([rel.expand(N, T, h, w) for rel in (rel_x, rel_y)], dim=1)
    of_all = features.transpose(0, 1)[None].expand(N, channels, T, h, w)
    x = torch.cat([relative, of_all], dim=1).flatten(2)  # [N, 10, T*h*w]
    for weight, bias, outputs, inputs in kernels.MaskHeadConfig(MASK_CHANNELS).layers():
        x = params[:, weight].view(N, outputs, inputs) @ x + params[:, bias, None]
        x = x.relu() if outputs > 1 else x
    return _doubled(_doubled(x.view(N, T, h, w), -1), -2)


def draw_masks_by_triton(
    features: Tensor, params: Tensor, references_px: Tensor, stride: int
) -> Tensor:
    """The same as an operator whose kernel AOTInductor puts into a package."""
    operators = import_module(f"{kernels.__name__}.mask_head.triton_in_graph")
    op = import_module(f"{kernels.__name__}.mask_head.op")
    clips = torch.zeros(params.shape[0], dtype=torch.int64)
    sizes = op.sizes_of(kernels.MaskHeadConfig(MASK_CHANNELS, stride=stride))
    masks: Tensor = operators.forward(features[None], params, references_px, clips, sizes)
    return masks


def _centres(cells: int, stride: int) -> Tensor:
    return torch.arange(cells, dtype=torch.float32) * stride + stride // 2


def _doubled(z: Tensor, dim: int) -> Tensor:
    """Twice the size along an axis: `out[o] = z at (o - 1) / 2`, at least the first cell."""
    before = torch.cat([z.narrow(dim, 0, 1), z], dim=dim).narrow(dim, 0, z.shape[dim])
    return torch.stack([(before + z) * 0.5, z], dim=dim).flatten(dim - 1, dim)
