"""Dynamic mask head: 1x1 convolutions whose parameters come from the instance query.

CondInst (Tian et al. 2020, section 3.2) as SeqFormer uses it (paper section 3.3): the network of an
instance sees the mask features and its own relative coordinates, and draws the instance in every
frame; the result is upsampled. Letters: B clips, T frames, N instances, C feature channels, h x w
cells, D hidden width, G generated parameters per instance, F upsampling factor.

Definition: `reference.py`. Operators: `op.py`. GPU: `triton_forward.py`. CPU: `cpu.py`, and
`cpu_torch.py` where there is no C compiler.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

from torch import Tensor
from torch.compiler import is_compiling

from ..backend import explained_by, is_reference_chosen
from . import cpu, op, reference
from .inputs import MaskHeadConfig, MaskHeadInputs, check_head, check_values


@explained_by(cpu.why_not_compiled)
def dynamic_mask_head(
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
    """Draw every instance in every frame of its clip, in one launch.

    Args:
        mask_features: [B, T, C, h, w], output of the mask branch; any float dtype.
        mask_params: [N, G] per instance: the weights of all layers, then their biases, each
            row-major [outputs, inputs]; the 169 of the default head are W0 [8, 10], W1 [8, 8],
            W2 [1, 8], b0 [8], b1 [8], b2 [1]. The inputs of W0 are rel_x, rel_y, then the channels.
        reference_points: [N, T, 2], (x, y) in input pixels; the relative coordinates of a cell are
            reference minus `mask_stride * cell + mask_stride // 2`, in pixels. To divide them by a
            size, divide the first two columns of W0. None without relative coordinates.
        clip_index: [N] int64 or int32, the clip each instance belongs to, in any order.
        mask_stride: input pixels per cell of `mask_features`.
        hidden_width: D, 8 or 16.
        num_layers: 2 to 4, the last included.
        relative_coordinates: whether rel_x, rel_y are inputs.
        upsample: F; 1, 2 or 4, aligned: `out[o] = logits at (o - F // 2) / F`, at least the first
            and at most the last cell.

    Returns: [N, T, F*h, F*w] logits in the dtype of the features; all arithmetic is float32
        (float64 for float64 inputs). Differentiable once in features, parameters and references,
        deterministic. N = 0 gives an empty result that is still attached to the graph.
    Raises: ValueError naming the argument, what was given and what is needed; on a CPU also for a
        clip index out of range and for references that are not finite.
    """
    tensors = (mask_features, mask_params, reference_points, clip_index)
    inputs, head = checked(
        tensors, mask_stride, hidden_width, num_layers, relative_coordinates, upsample
    )
    if is_reference_chosen(*inputs[:3]):
        check_values(inputs)
        return reference.dynamic_mask_head(inputs, head)
    return op.draw(inputs, head)


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
    """`dynamic_mask_head` in plain PyTorch: the definition."""
    tensors = (mask_features, mask_params, reference_points, clip_index)
    inputs, head = checked(
        tensors, mask_stride, hidden_width, num_layers, relative_coordinates, upsample
    )
    check_values(inputs)
    return reference.dynamic_mask_head(inputs, head)


def checked(
    tensors: tuple[Tensor, Tensor, Tensor | None, Tensor],
    mask_stride: int,
    hidden_width: int,
    num_layers: int,
    relative_coordinates: bool,
    upsample: int,
) -> tuple[MaskHeadInputs, MaskHeadConfig]:
    """The arguments of the public functions, with references that exist.

    Raises: ValueError as `check_head`.
    """
    features, params, references, _ = tensors
    inputs = MaskHeadInputs(*cast(tuple[Tensor, Tensor, Tensor, Tensor], tensors))
    channels = features.shape[2] if features.dim() == 5 else 0
    # A number of channels that is a symbol has no hash.
    make = _known_head if type(channels) is int and not is_compiling() else MaskHeadConfig
    head = make(channels, hidden_width, num_layers, relative_coordinates, upsample, mask_stride)
    check_head(inputs, head)
    if references is None:
        inputs = inputs._replace(references=params.new_zeros(params.shape[0], features.shape[1], 2))
    return inputs, head


_known_head = lru_cache(maxsize=256)(MaskHeadConfig)
