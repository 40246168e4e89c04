"""The forms in which the kernels of masks are compiled: for the model, and for other heads."""

from __future__ import annotations

from typing import Any

import torch

from kernels.frame_masks import launch as threshold_launch
from kernels.launch import Case
from kernels.mask_head import launch as head_launch
from kernels.mask_head.inputs import MaskHeadConfig
from kernels.mask_loss import launch as loss_launch

SEQFORMER = MaskHeadConfig()

OTHER_HEADS = (
    MaskHeadConfig(8, 8, 3, True, 1, 8),
    MaskHeadConfig(8, 8, 3, True, 4, 8),
    MaskHeadConfig(8, 8, 3, False, 2, 8),
    MaskHeadConfig(8, 8, 2, True, 2, 8),
    MaskHeadConfig(8, 8, 4, True, 2, 8),
    MaskHeadConfig(16, 16, 3, True, 2, 8),
)
"""Heads of other models: each choice by itself."""

HEAD_KINDS = ("forward", "gradients")
LOSS_KINDS = ("loss", "loss gradient")


def head_cases(capability: int) -> list[Case]:
    """Every launch of the head and its losses that the model asks for, and those of other heads."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    cells = SEQFORMER.without_upsampling()
    asked = [(kind, dtype, SEQFORMER) for kind in HEAD_KINDS + LOSS_KINDS for dtype in dtypes]
    # The backward of the losses ends with it.
    asked += [("gradients", dtype, cells) for dtype in dtypes]
    asked += [("sum", torch.float32, SEQFORMER)]
    asked += [(kind, torch.float32, head) for kind in HEAD_KINDS for head in OTHER_HEADS]
    # Of the network, losses use what the forward uses; upsampling is their own.
    asked += [(kind, torch.float32, head) for kind in LOSS_KINDS for head in OTHER_HEADS[:2]]
    return [_case(capability, *case) for case in dict.fromkeys(asked)]


def threshold_cases() -> list[Case]:
    """Every launch; the same on all GPUs."""
    return [
        Case(
            name=f"mask threshold {form} {str(dtype).removeprefix('torch.')}",
            variant=threshold_launch.forward_variant(dtype, packed),
        )
        for form, packed in (("bytes", False), ("bits", True))
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    ]


def _case(capability: int, kind: str, dtype: torch.dtype, head: MaskHeadConfig) -> Case:
    real, integer = torch.float32, torch.int64
    numbers = (
        *"GBNThw",
        *("stride", "tile_rows", "tiles", "tile_cells", "opaque_zero"),
        *("feature_clips", "param_instances"),
        *("target_h", "target_w", "target_stride", "M"),
    )
    arguments: dict[str, Any] = dict.fromkeys(numbers, 1)
    arguments |= {"features": dtype, "clip_index": integer, "out": dtype}
    arguments |= {"targets": torch.uint8, "target_index": integer, "grad_sums": real}
    arguments |= dict.fromkeys(("parameters", "references", "partials"), real)
    arguments |= {"grad_features": dtype, "grad_params": real, "grad_references": real}
    # The losses give the gradient of cells in float32.
    is_of_losses = head == SEQFORMER.without_upsampling()
    arguments["grad"] = real if is_of_losses or kind == "loss gradient" else dtype
    if kind == "forward":
        variant = head_launch.forward_variant(
            arguments, head, head_launch.forward_config(capability, head)
        )
    elif kind == "gradients":
        variant = head_launch.gradient_variant(
            arguments, head, head_launch.backward_config(capability, head)
        )
    elif kind == "sum":
        variant = head_launch.sum_variant(arguments, head)
    else:
        form = loss_launch.loss_variant if kind == "loss" else loss_launch.loss_gradient_variant
        variant = form(arguments, head, loss_launch.loss_config(capability, head), 0.25, 2.0)
    name = f"mask {kind} {str(dtype).removeprefix('torch.')}"
    if head != SEQFORMER:
        name += f" C{head.channels} D{head.hidden_width} F{head.upsample}"
        name += f" of {head.num_layers} layers"
        name += " absolute" * (not head.relative_coordinates)
    is_launched = head == SEQFORMER or (is_of_losses and kind == "gradients")
    return Case(name=name, variant=variant, is_model=is_launched)
