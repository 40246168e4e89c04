"""Gradients of more than 2^31 elements: the merged backward of attention, and the losses'."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import torch

import kernels
from bench.offline.emulator.proofs.large import (
    CHOSEN,
    large_zeros_are_lazy,
    lazy_zeros,
    programs_of,
)
from bench.offline.emulator.proofs.proof import Proof
from bench.offline.emulator.session import EmulatedGPU
from bench.suite.implementations import merged_adds
from bench.suite.tolerances import assert_near

FP32 = torch.float32
LEVELS = ((32, 32), (8, 8))
IMAGES, Q, M, D, P = 8_192, 6, 8, 32, 2
SEEN = (0, 1, 7_710, IMAGES - 1)
"""Images whose blocks run; the third begins below element 2^31 of value and ends above."""
MAPS, CELLS = 140_000, 128
"""Gradients of logits of so many instances have 2.3e9 elements; `CHOSEN` of them are looked at."""


def proofs() -> Iterator[Proof]:
    """Both in float32."""
    yield Proof(name="large msda merged backward float32", run=_merged)
    yield Proof(name="large mask loss gradients float32", run=_loss)


def _merged(gpu: EmulatedGPU) -> None:
    """All launches of the backward, over all images at a time."""
    S, L = sum(h * w for h, w in LEVELS), len(LEVELS)
    start = SEEN[2] * S * M * D
    assert start < 2**31 < start + S * M * D < IMAGES * S * M * D
    chosen, generator = list(SEEN), torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(len(chosen), *shape, generator=generator)

    value = lazy_zeros(IMAGES, S, M, D)
    offsets, logits = torch.zeros(IMAGES, Q, M, L, P, 2), torch.zeros(IMAGES, Q, M, L, P)
    grad = torch.zeros(IMAGES, Q, M * D)
    value[chosen], offsets[chosen] = normal(S, M, D), 3 * normal(Q, M, L, P, 2)
    logits[chosen], grad[chosen] = normal(Q, M, L, P), normal(Q, M * D)
    reference = torch.rand(1, Q, L, 2, generator=generator)

    def sample(kernel: str, grid: tuple[int, int, int]) -> list[int]:
        x, y, z = grid
        if kernel.endswith("offset_kernel"):  # images times heads, levels
            return [k * x + image * M + m for k in range(y) for image in SEEN for m in range(M)]
        assert z == IMAGES, f"{kernel}: the images of {grid} are not in one launch"
        return [image * x * y + k for image in SEEN for k in range(x * y)]

    gpu.sample = sample
    first = len(gpu.launches)
    with (
        large_zeros_are_lazy(),
        kernels.use_backend("triton"),
        merged_adds(SCRATCH_BYTES=sys.maxsize),
    ):
        leaves = [tensor.requires_grad_() for tensor in (value, offsets, logits)]
        output = kernels.ms_deform_attn_fused(leaves[0], LEVELS, *leaves[1:], reference)
        found = torch.autograd.grad(output, leaves, grad)
    assert any("merge_kernel" in launch.kernel for launch in gpu.launches[first:])

    exact = [leaf.detach()[chosen].double().requires_grad_() for leaf in leaves]
    right = kernels.ms_deform_attn_fused_reference(exact[0], LEVELS, *exact[1:], reference.double())
    assert_near(output.detach()[chosen], right.detach(), FP32, "output")
    expected = torch.autograd.grad(right, exact, grad[chosen].double())
    for name, actual, rows in zip(("value", "offsets", "logits"), found, expected, strict=True):
        assert_near(actual[chosen], rows, FP32, f"grad_{name}")


def _loss(gpu: EmulatedGPU) -> None:
    """Gradients of the chosen instances' parameters, through those of their logits."""
    chosen, generator = list(CHOSEN), torch.Generator().manual_seed(8)
    features = torch.randn(1, 1, 8, CELLS, CELLS, generator=generator)
    parameters = lazy_zeros(MAPS, 169)
    parameters[chosen] = 0.1 * torch.randn(len(chosen), 169, generator=generator)
    references, clip = torch.full((MAPS, 1, 2), CELLS * 4.0), torch.zeros(MAPS, dtype=torch.int64)
    targets = torch.rand(len(chosen), 1, 2 * CELLS, 2 * CELLS, generator=generator) > 0.5
    index = torch.zeros(MAPS, dtype=torch.int64)
    index[chosen] = torch.arange(len(chosen))
    grad = torch.zeros(MAPS, 4)
    grad[chosen] = torch.randn(len(chosen), 4, generator=generator)

    def sample(kernel: str, grid: tuple[int, int, int]) -> Sequence[int]:
        if kernel.endswith("mask_head.gradient_kernel"):
            return programs_of(CHOSEN, MAPS, grid[0] // MAPS)
        each = grid[0] // MAPS
        return [n * each + k for n in CHOSEN for k in range(each)]

    gpu.sample = sample
    leaf = parameters.requires_grad_()
    with kernels.use_backend("triton"):
        sums = kernels.dynamic_mask_loss(
            features, leaf, references, clip, targets, target_index=index
        )
        (found,) = torch.autograd.grad(torch.stack(sums, dim=1), [leaf], grad)
    exact = parameters.detach()[chosen].double().requires_grad_()
    with kernels.use_backend("reference"):
        right = kernels.dynamic_mask_loss(
            features.double(), exact, references[chosen].double(), clip[chosen], targets
        )
        (expected,) = torch.autograd.grad(torch.stack(right, dim=1), [exact], grad[chosen].double())
    assert_near(found[chosen], expected, FP32, "grad_params")
