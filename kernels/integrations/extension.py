"""The CUDA extension `MultiScaleDeformableAttention`, answered by our operator: nothing is built.

Deformable-DETR, DINO, Mask2Former, VNext, DVIS and Grounding DINO import a module of this name and
call its two functions. `use_as_extension` lets the import find ours, on any device. The contract is
that of the extension, float64 included; half precision comes on top.
"""

from __future__ import annotations

import sys
from types import ModuleType
from weakref import ref

import torch
from torch import Tensor

from ..backend import is_reference_chosen
from ..deformable_attention import ms_deform_attn, op
from .patches import Patch

NAME = "MultiScaleDeformableAttention"


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    im2col_step: int,
) -> Tensor:
    """Sample and blend.

    Args:
        value: [B, S, M, D], float64, float32, float16 or bfloat16.
        spatial_shapes: [L, 2] integers, (height, width).
        level_start_index: [L] integers, the first token of every level.
        sampling_loc: [B, Q, M, L, P, 2], (x, y) in 0..1, in value's dtype.
        attn_weight: [B, Q, M, L, P], in value's dtype.
        im2col_step: images that the extension takes at once. It changes nothing here, but must
            divide B, or be at least B, as there.

    Returns: [B, Q, M*D] in value's dtype.
    Raises: ValueError for shapes that disagree, levels that do not follow one another, several
        dtypes, or a step that does not fit.
    """
    shapes = check(value, spatial_shapes, level_start_index, sampling_loc, attn_weight, im2col_step)
    return ms_deform_attn(value, shapes, sampling_loc, attn_weight)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    grad_output: Tensor,
    im2col_step: int,
) -> list[Tensor]:
    """Gradients of value, sampling_loc and attn_weight, as a list like the extension's.

    Arguments and errors as in `ms_deform_attn_forward`; grad_output is [B, Q, M*D].
    """
    shapes = check(value, spatial_shapes, level_start_index, sampling_loc, attn_weight, im2col_step)
    expected = [value.shape[0], sampling_loc.shape[1], value.shape[2] * value.shape[3]]
    if list(grad_output.shape) != expected or grad_output.dtype != value.dtype:
        raise ValueError(
            f"grad_output must be [B, Q, M*D] = {expected} of {value.dtype}, got "
            f"{list(grad_output.shape)} of {grad_output.dtype}"
        )
    if is_reference_chosen(value, sampling_loc, attn_weight):
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in (value, sampling_loc, attn_weight)]
            output = ms_deform_attn(inputs[0], shapes, inputs[1], inputs[2])
        return list(torch.autograd.grad(output, inputs, grad_output))
    flat = [size for pair in shapes for size in pair]
    needs = [True, True, False]
    arguments = (grad_output, value, sampling_loc, attn_weight, None, None, flat, needs)
    return list(op.backward(*arguments)[:3])


def use_as_extension() -> Patch:
    """Let `import MultiScaleDeformableAttention` find these functions, built or not.

    Call it before the repository's own modules are imported. Where the extension is loaded
    already, its two functions are replaced in place, so that who holds it calls ours as well.

    Returns: the patch, to undo.
    """
    patch = Patch()
    loaded = sys.modules.get(NAME)
    if loaded is None:
        loaded = ModuleType(NAME, __doc__)
        patch.provide(NAME, loaded)
    patch.set(loaded, "ms_deform_attn_forward", ms_deform_attn_forward)
    patch.set(loaded, "ms_deform_attn_backward", ms_deform_attn_backward)
    return patch


def check(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    im2col_step: int,
    mixed: bool = False,
) -> tuple[tuple[int, int], ...]:
    """(height, width) of the levels, once the extension's own conditions hold.

    Args:
        mixed: whether the tensors may differ in dtype.

    Raises: ValueError. Shapes of value, locations and weights are the operator's to check.
    """
    dtypes = [value.dtype, sampling_loc.dtype, attn_weight.dtype]
    if not mixed and len(set(dtypes)) > 1:
        raise ValueError(
            "value, sampling_loc and attn_weight must share one dtype, got "
            + ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        )
    shapes, starts = _on_host(spatial_shapes, level_start_index)
    expected, tokens = [], 0
    for height, width in shapes:
        expected.append(tokens)
        tokens += height * width
    if list(starts) != expected:
        raise ValueError(
            f"level_start_index must be {expected} for levels of {list(shapes)} that follow one "
            f"another, got {list(starts)}"
        )
    batch = value.shape[0]
    if im2col_step < 1 or batch % min(max(batch, 1), im2col_step):
        raise ValueError(f"im2col_step {im2col_step} must divide the batch of {batch} images")
    return shapes


_Levels = tuple[tuple[tuple[int, int], ...], tuple[int, ...]]
_last: tuple[ref[Tensor], ref[Tensor], tuple[int, int], _Levels] | None = None


def _on_host(spatial_shapes: Tensor, level_start_index: Tensor) -> _Levels:
    """Sizes and starts of the levels. Every layer of a model passes the same two tensors, so that
    one wait for the GPU serves them all, forward and backward."""
    global _last
    for name, tensor, rank in (
        ("spatial_shapes", spatial_shapes, 2),
        ("level_start_index", level_start_index, 1),
    ):
        if tensor.dim() != rank or tensor.is_floating_point():
            raise ValueError(
                f"{name} must be {'[L, 2]' if rank == 2 else '[L]'} integers, got "
                f"{list(tensor.shape)} of {tensor.dtype}"
            )
    if spatial_shapes.shape[1] != 2 or len(spatial_shapes) != len(level_start_index):
        raise ValueError(
            f"spatial_shapes [L, 2] and level_start_index [L] must agree in L, got "
            f"{list(spatial_shapes.shape)} and {list(level_start_index.shape)}"
        )
    tensors = (spatial_shapes, level_start_index)
    if all(x.device.type == "cpu" for x in tensors) or any(x.is_inference() for x in tensors):
        return _read(spatial_shapes, level_start_index)
    versions = (spatial_shapes._version, level_start_index._version)
    if _last is not None:
        shapes, starts, seen, levels = _last
        if shapes() is spatial_shapes and starts() is level_start_index and seen == versions:
            return levels
    levels = _read(spatial_shapes, level_start_index)
    _last = (ref(spatial_shapes), ref(level_start_index), versions, levels)
    return levels


def _read(spatial_shapes: Tensor, level_start_index: Tensor) -> _Levels:
    if spatial_shapes.device == level_start_index.device:  # one copy, one wait
        both = torch.cat([spatial_shapes.flatten(), level_start_index.to(spatial_shapes)]).tolist()
    else:
        both = spatial_shapes.flatten().tolist() + level_start_index.tolist()
    sizes, starts = both[: spatial_shapes.numel()], both[spatial_shapes.numel() :]
    return tuple(zip(sizes[::2], sizes[1::2], strict=True)), tuple(starts)
