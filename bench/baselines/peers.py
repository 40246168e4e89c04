"""Other projects' deformable attention, each with everything that our operator replaces.

Where they can be imported: the public CUDA operator of Deformable-DETR, in one launch and frame by
frame as SeqFormer calls it, mmcv's, DCNv4's flash operator, and deformops, on a CPU, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bench.suite.msda_calls import Inputs, level_sizes, prepared


@dataclass(frozen=True)
class Peer:
    """A contender: from inputs and their leaves to the output, on a GPU.

    Attributes:
        module: what must be importable; "a.b" wants the submodule too.
        on_cpu: whether it runs there, too.
    """

    name: str
    module: str
    run: Callable[[Inputs, list[Tensor]], Tensor]
    dtypes: tuple[torch.dtype, ...]
    on_cpu: bool = False

    def is_installed(self) -> bool:
        package, _, inner = self.module.partition(".")
        return find_spec(package) is not None and (not inner or find_spec(self.module) is not None)

    def runs_on(self, device: torch.device) -> bool:
        return (device.type == "cuda" or self.on_cpu) and self.is_installed()


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


def _public(inputs: Inputs, leaves: list[Tensor]) -> Tensor:
    value, locations, weights = prepared(inputs, leaves)
    sizes, starts = _shape_tensors(tuple(inputs.shapes), value.device)
    return _PublicOp.apply(value, sizes, starts, locations.contiguous(), weights)


def _public_by_frame(inputs: Inputs, leaves: list[Tensor]) -> Tensor:
    """As SeqFormer calls it."""
    value, locations, weights = prepared(inputs, leaves)
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


def _mmcv(inputs: Inputs, leaves: list[Tensor]) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    value, locations, weights = prepared(inputs, leaves)
    sizes, starts = _shape_tensors(tuple(inputs.shapes), value.device)
    return MultiScaleDeformableAttnFunction.apply(
        value, sizes, starts, locations.to(value.dtype), weights.to(value.dtype), 64
    )


def _dcnv4(inputs: Inputs, leaves: list[Tensor]) -> Tensor:
    from DCNv4.functions import FlashDeformAttnFunction

    value, offsets, logits = leaves
    locations = inputs.reference[:, :, None, :, None] + offsets / level_sizes(inputs)[:, None]
    joined = torch.cat([locations.flatten(3), logits.flatten(3)], dim=-1).to(value.dtype)
    shapes, starts = _shape_tensors(tuple(inputs.shapes), value.device)
    return FlashDeformAttnFunction.apply(value, shapes, starts, joined.contiguous(), 64)


def _deformops(inputs: Inputs, leaves: list[Tensor]) -> Tensor:
    """By its own choice of implementation: eager PyTorch on a CPU."""
    from deformops.registry import msda

    value, locations, weights = prepared(inputs, leaves)
    sizes, starts = _shape_tensors(tuple(inputs.shapes), value.device)
    return msda(value, sizes, starts, locations, weights.to(value.dtype))


PEERS = (
    Peer(
        "public CUDA op by frame", "MultiScaleDeformableAttention", _public_by_frame,
        (torch.float32,),
    ),
    Peer("public CUDA op", "MultiScaleDeformableAttention", _public, (torch.float32,)),
    Peer("mmcv", "mmcv._ext", _mmcv, (torch.float32, torch.float16)),
    Peer("DCNv4 flash", "DCNv4", _dcnv4, (torch.float16,)),
    Peer(
        "deformops", "deformops", _deformops,
        (torch.float32, torch.bfloat16, torch.float16), on_cpu=True,
    ),
)  # fmt: skip


def missing_peers() -> list[str]:
    """Peers that are not installed."""
    return [peer.name for peer in PEERS if not peer.is_installed()]
