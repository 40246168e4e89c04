"""Dynamic mask heads for the tests: inputs of all sizes, and runs with every gradient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import kernels
from bench.suite.implementations import implementation
from bench.suite.problems.deformable_attention import moved
from kernels.mask_head.inputs import MaskHeadConfig


@dataclass
class HeadCase:
    """Float64 arguments of a call.

    Attributes:
        tensors: features, parameters, references.
        options: keyword arguments.
    """

    tensors: tuple[Tensor, Tensor, Tensor]
    clip_index: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    def out_shape(self) -> tuple[int, ...]:
        features, params, _ = self.tensors
        factor = self.options.get("upsample", 2)
        h, w = features.shape[-2:]
        return len(params), features.shape[1], factor * h, factor * w


def make_case(B, T, N, h, w, seed=0, channels=8, **options) -> HeadCase:
    """Clips in random order, some perhaps without instances."""
    head = MaskHeadConfig(
        channels,
        options.get("hidden_width", 8),
        options.get("num_layers", 3),
        options.get("relative_coordinates", True),
        options.get("upsample", 2),
        options.get("mask_stride", 8),
    )
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(B, T, channels, h, w, generator=g, dtype=torch.float64)
    params = torch.randn(N, head.num_params, generator=g, dtype=torch.float64) * 0.3
    references = torch.rand(N, T, 2, generator=g, dtype=torch.float64) * head.stride * max(h, w)
    return HeadCase((features, params, references), torch.randint(B, (N,), generator=g), options)


def run_head(
    name, case: HeadCase, grad: Tensor, dtype=torch.float64, skipped: int = 0
) -> list[Tensor]:
    """Logits, and gradients of features, parameters and references.

    Args:
        skipped: elements between an aligned address and the first of each input.
    """
    leaves = [moved(t.to(dtype), skipped).requires_grad_() for t in case.tensors]
    with implementation(name):
        out = kernels.dynamic_mask_head(*leaves, case.clip_index, **case.options)
        grads = torch.autograd.grad(out, leaves, grad.to(out.dtype), allow_unused=True)
    return [out.detach(), *_dense(leaves, grads)]


def run_loss(
    name, case: HeadCase, targets: Tensor, grad: Tensor, dtype=torch.float64, **options
) -> list[Tensor]:
    """Sums [N, 4], and the same gradients."""
    leaves = [t.to(dtype).requires_grad_() for t in case.tensors]
    with implementation(name):
        sums = kernels.dynamic_mask_loss(
            *leaves, case.clip_index, targets, **case.options, **options
        )
        out = torch.stack(sums, dim=1)
        grads = torch.autograd.grad(out, leaves, grad.to(out.dtype), allow_unused=True)
    return [out.detach(), *_dense(leaves, grads)]


def _dense(leaves, grads):
    return [
        torch.zeros_like(leaf) if grad is None else grad
        for leaf, grad in zip(leaves, grads, strict=True)
    ]


OTHER_HEADS = {
    "no coordinates": {"relative_coordinates": False},
    "two layers": {"num_layers": 2},
    "four layers": {"num_layers": 4},
    "wide": {"hidden_width": 16, "channels": 16},
    "wide, four layers, few channels": {"hidden_width": 16, "channels": 3, "num_layers": 4},
    "no upsampling": {"upsample": 1},
    "upsampling by four": {"upsample": 4},
    "odd stride": {"mask_stride": 5},
    "stride 1": {"mask_stride": 1, "upsample": 1, "num_layers": 2, "relative_coordinates": False},
}
"""Heads of other models: keyword arguments of `make_case`."""
