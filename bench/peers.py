"""Other implementations of deformable attention, each with everything that our operator replaces.

Always there: `grid_sample` for all frames at once, the same compiled by torch, and the published
formulation (frame by frame, level by level). Where they can be imported: the public CUDA operator
of Deformable-DETR, mmcv's, and DCNv4's flash operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

import kernels


@dataclass(frozen=True)
class Peer:
    """A contender: from raw inputs (`bench.gpu_msda.Inputs` and its leaves) to the output."""

    name: str
    run: Callable[[Any, list[Tensor]], Tensor]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16)

    def takes(self, dtype: torch.dtype) -> bool:
        return dtype in self.dtypes


def available_peers(device: torch.device) -> list[Peer]:
    """Those that run on this machine, the eager reference first."""
    peers = [Peer("grid_sample", _grid_sample), Peer("grid_sample by frame", _by_frame)]
    if device.type == "cuda":
        peers.append(Peer("grid_sample compiled", torch.compile(_grid_sample, dynamic=False)))
        if find_spec("MultiScaleDeformableAttention"):
            peers.append(Peer("public CUDA op by frame", _public_by_frame, (torch.float32,)))
            peers.append(Peer("public CUDA op", _public, (torch.float32,)))
        if find_spec("mmcv") and find_spec("mmcv._ext"):
            peers.append(Peer("mmcv", _mmcv, (torch.float32, torch.float16)))
        if find_spec("DCNv4"):
            peers.append(Peer("DCNv4 flash", _dcnv4, (torch.float16,)))
    return peers


def missing_peers() -> list[str]:
    """Importable peers that are not installed."""
    wanted = {
        "public CUDA op": "MultiScaleDeformableAttention",
        "mmcv": "mmcv",
        "DCNv4 flash": "DCNv4",
    }
    return [name for name, module in wanted.items() if not find_spec(module)]


def _grid_sample(inputs: Any, leaves: list[Tensor]) -> Tensor:
    value, offsets, logits = leaves
    return kernels.ms_deform_attn_fused_reference(
        value, inputs.shapes, offsets, logits, inputs.reference
    )


def _by_frame(inputs: Any, leaves: list[Tensor]) -> Tensor:
    value, locations, weights = _prepared(inputs, leaves)
    frames = [
        kernels.ms_deform_attn_reference(
            value[i : i + 1].contiguous(), inputs.shapes, locations[i : i + 1], weights[i : i + 1]
        )
        for i in range(value.shape[0])
    ]
    return torch.cat(frames)


def _prepared(inputs: Any, leaves: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Masked value, locations and softmaxed weights, as the operators of the field take them."""
    value, offsets, logits = leaves
    padding = torch.zeros(value.shape[:2], dtype=torch.bool, device=value.device)
    value = value.masked_fill(padding[..., None, None], 0.0)
    sizes = _sizes(tuple(inputs.shapes), value.device)
    locations = inputs.reference[:, :, None, :, None] + offsets / sizes[:, None]
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    return value, locations, weights


@lru_cache(maxsize=64)
def _sizes(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    return torch.tensor([[w, h] for h, w in shapes], dtype=torch.float32, device=device)


@lru_cache(maxsize=64)
def _shape_tensors(
    shapes: tuple[tuple[int, int], ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """[L, 2] (height, width) and [L] first tokens, int64."""
    sizes = torch.tensor(shapes, device=device)
    areas = sizes.prod(1)
    return sizes, areas.cumsum(0) - areas


class _PublicOp(torch.autograd.Function):
    """Autograd around the two functions of the public extension."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, sizes: Tensor, starts: Tensor, *samples: Tensor) -> Tensor:
        import MultiScaleDeformableAttention as extension

        ctx.save_for_backward(value, sizes, starts, *samples)
        return extension.ms_deform_attn_forward(value, sizes, starts, *samples, 64)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        import MultiScaleDeformableAttention as extension

        value, locations, weights = extension.ms_deform_attn_backward(
            *ctx.saved_tensors, grad_output.contiguous(), 64
        )
        return value, None, None, locations, weights


def _public(inputs: Any, leaves: list[Tensor]) -> Tensor:
    value, locations, weights = _prepared(inputs, leaves)
    sizes, starts = _shape_tensors(tuple(inputs.shapes), value.device)
    return _PublicOp.apply(value, sizes, starts, locations.contiguous(), weights)


def _public_by_frame(inputs: Any, leaves: list[Tensor]) -> Tensor:
    """As SeqFormer calls it."""
    value, locations, weights = _prepared(inputs, leaves)
    sizes, starts = _shape_tensors(tuple(inputs.shapes), value.device)
    frames = [
        _PublicOp.apply(
            value[i : i + 1].contiguous(),
            sizes,
            starts,
            locations[i : i + 1].contiguous(),
            weights[i : i + 1].contiguous(),
        )
        for i in range(value.shape[0])
    ]
    return torch.cat(frames)


def _mmcv(inputs: Any, leaves: list[Tensor]) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    value, locations, weights = _prepared(inputs, leaves)
    sizes, starts = _shape_tensors(tuple(inputs.shapes), value.device)
    return MultiScaleDeformableAttnFunction.apply(
        value, sizes, starts, locations.to(value.dtype), weights.to(value.dtype), 64
    )


def _dcnv4(inputs: Any, leaves: list[Tensor]) -> Tensor:
    from DCNv4.functions import FlashDeformAttnFunction

    value, offsets, logits = leaves
    sizes = _sizes(tuple(inputs.shapes), value.device)
    locations = inputs.reference[:, :, None, :, None] + offsets / sizes[:, None]
    joined = torch.cat([locations.flatten(3), logits.flatten(3)], dim=-1).to(value.dtype)
    shapes, starts = _shape_tensors(tuple(inputs.shapes), value.device)
    return FlashDeformAttnFunction.apply(value, shapes, starts, joined.contiguous(), 64)
