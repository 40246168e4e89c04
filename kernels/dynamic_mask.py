"""Dynamic mask head: 1x1 convolutions whose parameters come from the instance query.

CondInst (Tian et al. 2020, section 3.2) as SeqFormer uses it (paper section 3.3): the network of an
instance sees the mask features and its own relative coordinates, and draws the instance in every
frame; the result is upsampled. Letters: B clips, T frames, N instances, C feature channels, h x w
cells, D hidden width, G generated parameters per instance, F upsampling factor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import is_reference_chosen, kernel_implementation
from .dynamic_mask_cpu import head_backward_cpu, head_forward_cpu
from .dynamic_mask_spec import MaskHead, check_head, check_values

MASK_CHANNELS = 8
"""Channels of SeqFormer's mask features, and of its two hidden layers."""

NUM_MASK_PARAMS = MaskHead(MASK_CHANNELS, 8, 3, True, 2, 8).num_params
"""G of SeqFormer: 80 + 64 + 8 weights, then 8 + 8 + 1 biases = 169."""


def dynamic_mask_head_reference(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor | None,
    clip_index: Tensor,
    mask_stride: int = 8,
    *,
    hidden_width: int = 8,
    num_layers: int = 3,
    relative_coordinates: bool = True,
    upsample: int = 2,
) -> Tensor:
    """The definition, in plain PyTorch. Same contract as `dynamic_mask_head`."""
    head = MaskHead(
        mask_features.shape[2] if mask_features.dim() == 5 else 0,
        hidden_width, num_layers, relative_coordinates, upsample, mask_stride,
    )  # fmt: skip
    references = _checked(mask_features, mask_params, reference_points, clip_index, head)
    return _reference(mask_features, mask_params, references, clip_index, head)


def _reference(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    head: MaskHead,
) -> Tensor:
    N, T = reference_points.shape[:2]
    h, w = mask_features.shape[-2:]
    tensors = (mask_features, mask_params, reference_points)
    compute = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    features, params, references = (t.to(compute) for t in tensors)

    # rel = ref - (stride*col + stride//2, stride*row + stride//2), in input pixels, not normalised
    def centres(n: int) -> Tensor:
        cells = torch.arange(n, device=references.device, dtype=compute)
        return cells * head.stride + head.stride // 2

    inputs = features.transpose(1, 2)[clip_index]  # [N, C, T, h, w]
    if head.relative_coordinates:
        rel_x = references[:, :, 0, None, None] - centres(w)  # [N, T, 1, w]
        rel_y = references[:, :, 1, None, None] - centres(h)[:, None]  # [N, T, h, 1]
        relative = torch.stack([rel.expand(N, T, h, w) for rel in (rel_x, rel_y)], dim=1)
        inputs = torch.cat([relative, inputs], dim=1)
    x = inputs.flatten(2)  # [N, I, T*h*w]
    for weight, bias, outputs, width in head.layers():
        x = params[:, weight].view(N, outputs, width) @ x + params[:, bias, None]
        x = x.relu() if outputs > 1 else x
    return aligned_upsample(x.view(N, T, h, w), head.upsample).to(mask_features.dtype)


def aligned_upsample(z: Tensor, factor: int) -> Tensor:
    """Bilinear upsampling of the last two axes, `out[o] = z at (o - factor // 2) / factor`.

    Positions outside are moved to the first or last cell. These are the values of AdelaiDet's
    aligned_bilinear (replicate pad, resize with aligned corners, pad, crop).
    """
    for dim in (-1, -2) if factor > 1 else ():
        size = z.shape[dim]
        position = (torch.arange(factor * size, device=z.device) - factor // 2) / factor
        position = position.clamp(0, size - 1)
        low = position.floor().long()
        weight = (position - low).to(z.dtype)
        weight = weight if dim == -1 else weight[:, None]
        high = (low + 1).clamp(max=size - 1)
        z = z.index_select(dim, low) * (1 - weight) + z.index_select(dim, high) * weight
    return z


@torch.library.custom_op("seqformer_kernels::dynamic_mask_head", mutates_args=())
def _head(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    hidden_width: int,
    num_layers: int,
    relative_coordinates: bool,
    upsample: int,
    stride: int,
) -> Tensor:
    head = MaskHead(
        mask_features.shape[2], hidden_width, num_layers, relative_coordinates, upsample, stride
    )
    tensors = (mask_features, mask_params, reference_points, clip_index)
    check_values(reference_points, clip_index, mask_features.shape[0])
    if kernel_implementation(mask_features) == "triton":
        from .dynamic_mask_triton import head_forward_triton

        return head_forward_triton(*tensors, head)
    return head_forward_cpu(*tensors, head)


@_head.register_fake
def _(
    mask_features, mask_params, reference_points, clip_index, hidden_width, num_layers,
    relative_coordinates, upsample, stride,
):  # fmt: skip
    _, T, _, h, w = mask_features.shape
    return mask_features.new_empty(mask_params.shape[0], T, upsample * h, upsample * w)


@torch.library.custom_op("seqformer_kernels::dynamic_mask_head_backward", mutates_args=())
def _head_backward(
    grad: Tensor,
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    hidden_width: int,
    num_layers: int,
    relative_coordinates: bool,
    upsample: int,
    stride: int,
    needs_features: bool,
    needs_params: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of features (empty unless needed), parameters and references (likewise)."""
    head = MaskHead(
        mask_features.shape[2], hidden_width, num_layers, relative_coordinates, upsample, stride
    )
    tensors = (grad, mask_features, mask_params, reference_points, clip_index)
    if kernel_implementation(mask_features) == "triton":
        from .dynamic_mask_triton import head_backward_triton

        return head_backward_triton(*tensors, head, needs_features, needs_params)
    features, params, references = head_backward_cpu(*tensors, head, needs_features)
    return mask_features.new_empty(0) if features is None else features, params, references


@_head_backward.register_fake
def _(
    grad, mask_features, mask_params, reference_points, clip_index, hidden_width, num_layers,
    relative_coordinates, upsample, stride, needs_features, needs_params,
):  # fmt: skip
    return tuple(
        torch.empty_like(t, memory_format=torch.contiguous_format) if needed else t.new_empty(0)
        for t, needed in (
            (mask_features, needs_features),
            (mask_params, needs_params),
            (reference_points, needs_params),
        )
    )
