"""Tensors of more than 2^31 elements, of which a few blocks are run and a few pages exist."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import kernels
from bench.offline.emulator.proofs.mask_head import NAMES, rounded
from bench.offline.emulator.proofs.proof import Proof
from bench.offline.emulator.session import EmulatedGPU
from bench.suite.problems.mask_head import make_case, run_loss
from bench.suite.tolerances import assert_near

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
LEVELS = ((4096, 2048), (512, 512))
"""Powers of two, so that positions between cells are exact; the second begins at element 2^31 of a
value with 8 heads of 32 channels."""

MAP_NORESERVE = 0x4000
"""Linux's flag, which Python's module names from 3.13 on: memory is not promised in advance."""


def proofs() -> Iterator[Proof]:
    """Forward passes from bfloat16 values, both passes in float32, masks by the thousand."""
    yield Proof(name="large msda forward bfloat16", run=lambda gpu: _msda(BF16, False))
    yield Proof(name="large msda both ways float32", run=lambda gpu: _msda(FP32, True))
    yield Proof(name="large mask head logits float16", run=_mask_head)
    yield Proof(name="large mask head gradients float16", run=_mask_head_backward)
    yield Proof(name="large mask loss targets", run=_mask_loss)
    yield Proof(name="large threshold masks", run=_threshold_masks)
    yield Proof(name="large threshold logits", run=_threshold_logits)


def lazy_zeros(*shape: int, dtype: torch.dtype = FP32) -> Tensor:
    """Zeros whose pages exist once they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


@contextmanager
def large_zeros_are_lazy() -> Iterator[None]:
    """Inside, `torch.zeros` and `Tensor.new_zeros` of more than a gigabyte write nothing."""
    zeros, new_zeros = torch.zeros, torch.Tensor.new_zeros

    def lazy_or(eager: Callable[[], Tensor], shape: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
        sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
        is_large = math.prod(sizes) * dtype.itemsize >= 2**30
        return lazy_zeros(*sizes, dtype=dtype) if is_large else eager()

    def lazy(*shape: Any, **named: Any) -> Tensor:
        return lazy_or(lambda: zeros(*shape, **named), shape, named.get("dtype") or FP32)

    def new_lazy(like: Tensor, *shape: Any, **named: Any) -> Tensor:
        dtype = named.get("dtype") or like.dtype
        return lazy_or(lambda: new_zeros(like, *shape, **named), shape, dtype)

    with (
        mock.patch.object(torch, "zeros", lazy),
        mock.patch.object(torch.Tensor, "new_zeros", new_lazy),
    ):
        yield


def _msda(dtype: torch.dtype, with_gradients: bool) -> None:
    """Each sample reads four cells of its own; the definition reads copies of those."""
    M, D, Q, L, P = 8, 32, 5, 2, 2
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor(LEVELS)
    cells = torch.rand(Q, M, L, P, 2, generator=generator) * (sizes.flip(1)[:, None] - 2)
    cells = (cells.double() * 8).floor() / 8 + 0.0625  # off the kinks
    locations = ((cells + 0.5) / sizes.flip(1)[:, None]).float()
    low = cells.floor().long()
    start = torch.tensor([0, LEVELS[0][0] * LEVELS[0][1]])[:, None]
    width = sizes[:, 1][:, None]
    corners = torch.stack(
        [start + (low[..., 1] + dy) * width + low[..., 0] + dx for dy in (0, 1) for dx in (0, 1)],
        dim=-1,
    )  # [Q, M, L, P, 4]
    heads = torch.arange(M).view(1, M, 1, 1, 1).expand_as(corners)
    S = sum(h * w for h, w in LEVELS)
    value = lazy_zeros(1, S, M, D, dtype=dtype)
    value[0, corners, heads] = torch.randn(*corners.shape, D, generator=generator).to(dtype)
    weights = torch.rand(Q, M, L, P, generator=generator)
    grad = torch.randn(1, Q, M * D, generator=generator).to(dtype)

    leaves = [value, locations[None], weights[None]]
    with large_zeros_are_lazy(), kernels.use_backend("triton"):
        leaves = [leaf.requires_grad_(with_gradients) for leaf in leaves]
        output = kernels.ms_deform_attn(leaves[0], LEVELS, *leaves[1:])
        grads = torch.autograd.grad(output, leaves, grad) if with_gradients else ()

    taken = value.detach()[0, corners, heads].double().requires_grad_()
    points, shares = (leaf.detach()[0].double().requires_grad_() for leaf in leaves[1:])
    offset = points * sizes.flip(1)[:, None] - 0.5 - low
    x, y = offset[..., :1], offset[..., 1:]
    corner_weights = torch.cat([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], dim=-1)
    samples = (taken * corner_weights[..., None]).sum(-2)
    exact = (samples * shares[..., None]).sum((2, 3)).view(1, Q, M * D)
    assert_near(output.detach(), exact.detach(), dtype, "output")
    if with_gradients:
        expected = torch.autograd.grad(exact, (taken, points, shares), grad.double())
        found = (grads[0][0, corners, heads], grads[1][0], grads[2][0])
        for name, actual, right in zip(
            ("value", "points", "weights"), found, expected, strict=True
        ):
            assert_near(actual, right, dtype, f"grad_{name}")


N, T, CELLS = 140_000, 1, 64
CHOSEN = (0, 1, N // 2, 131_072, N - 1)
"""Instances that are looked at; their logits begin at up to element 2.3e9."""


def _mask_head_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(1, T, 8, CELLS, CELLS, generator=generator).to(FP16)
    parameters = lazy_zeros(N, 169, dtype=FP16)
    parameters[list(CHOSEN)] = (torch.randn(len(CHOSEN), 169, generator=generator) * 0.1).to(FP16)
    references = torch.full((N, T, 2), CELLS * 4.0)
    return features, parameters, references, torch.zeros(N, dtype=torch.int64)


def _mask_head(gpu: EmulatedGPU) -> None:
    features, parameters, references, clip = _mask_head_inputs()

    def sample(kernel: str, grid: tuple[int, int, int]) -> list[int]:
        tiles = grid[0] // (N * T)
        return [n * T * tiles + i for n in CHOSEN for i in range(T * tiles)]

    gpu.sample = sample
    with kernels.use_backend("triton"):
        out = kernels.dynamic_mask_head(features, parameters, references, clip)
    chosen = list(CHOSEN)
    exact = kernels.dynamic_mask_head_reference(
        features.double(), parameters[chosen].double(), references[chosen].double(), clip[chosen]
    )
    assert_near(out[chosen], exact, FP16, "logits")


def _mask_head_backward(gpu: EmulatedGPU) -> None:
    """Gradients of the chosen instances' parameters."""
    features, parameters, references, clip = _mask_head_inputs()
    chosen = list(CHOSEN)
    grad = lazy_zeros(N, T, 2 * CELLS, 2 * CELLS, dtype=FP16)
    generator = torch.Generator().manual_seed(2)
    grad[chosen] = torch.randn(len(CHOSEN), *grad.shape[1:], generator=generator).to(FP16)

    def sample(kernel: str, grid: tuple[int, int, int]) -> list[int]:
        if kernel.endswith("gradient_kernel"):
            return programs_of(CHOSEN, N, grid[0] // N)
        if kernel.endswith("sum_kernel"):
            return chosen
        return []

    gpu.sample = sample
    leaf = parameters.requires_grad_()
    with kernels.use_backend("triton"):
        out = kernels.dynamic_mask_head(features, leaf, references, clip)
        (found,) = torch.autograd.grad(out, [leaf], grad)
    wide = parameters.detach()[chosen].double().requires_grad_()
    exact = kernels.dynamic_mask_head_reference(
        features.double(), wide, references[chosen].double(), clip[chosen]
    )
    (expected,) = torch.autograd.grad(exact, [wide], grad[chosen].double())
    assert_near(found[chosen], expected, FP16, "grad_params")


def _mask_loss(gpu: EmulatedGPU) -> None:
    """Few instances, whose targets begin at up to byte 2.3e9; all programs run."""
    case = rounded(make_case(1, T, len(CHOSEN), CELLS, CELLS), FP32)
    targets = lazy_zeros(N, T, 2 * CELLS, 2 * CELLS, dtype=torch.uint8)
    index = torch.tensor(CHOSEN)
    drawn = torch.rand(len(CHOSEN), *targets.shape[1:], generator=torch.Generator().manual_seed(6))
    targets[index] = (drawn > 0.5).to(torch.uint8)
    grad = torch.ones(len(CHOSEN), 4, dtype=torch.float64)
    found = run_loss("triton", case, targets, grad, FP32, target_index=index)
    exact = run_loss("reference", case, targets[index], grad)
    for name, actual, right in zip(NAMES, found, exact, strict=True):
        assert_near(actual, right, FP32, name)


def programs_of(instances: Sequence[int], count: int, each: int) -> list[int]:
    """Programs that belong to these instances, of `count` with `each` programs, whichever share of
    the programs runs slower than the instances."""
    return sorted(
        {
            (outer * count + n) * (each // outside) + inner
            for outside in range(1, each + 1)
            if each % outside == 0
            for outer in range(outside)
            for n in instances
            for inner in range(each // outside)
        }
    )


MASKS = 2_200


def _of_masks(kernel: str, grid: tuple[int, int, int]) -> list[int]:
    tiles = grid[0] // MASKS
    return [m * tiles + i for m in (0, MASKS // 2, MASKS - 1) for i in (0, tiles // 2, tiles - 1)]


def _threshold_masks(gpu: EmulatedGPU) -> None:
    """Masks of 2.2e9 bytes: in the blocks that were run, what they drew."""
    H, W = 1000, 1000
    logits = torch.randn(MASKS, 8, 8, generator=torch.Generator().manual_seed(3))
    gpu.sample = _of_masks
    with kernels.use_backend("triton"):
        drawn = kernels.threshold_masks(logits, (H, W))
    for m in (0, MASKS // 2, MASKS - 1):
        with kernels.use_backend("reference"):
            exact = kernels.threshold_masks(logits[m : m + 1].double(), (H, W))[0]
        # These pixels belong to the first and the last block of a mask.
        for corner in (slice(8), slice(-8, None)):
            assert torch.equal(drawn[m, corner, corner], exact[corner, corner]), f"mask {m} differs"


def _threshold_logits(gpu: EmulatedGPU) -> None:
    """Logits of 2.2e9 elements."""
    logits = lazy_zeros(MASKS, 1000, 1000, dtype=BF16)
    chosen = [0, MASKS // 2, MASKS - 1]
    generator = torch.Generator().manual_seed(4)
    logits[chosen] = torch.randn(3, 1000, 1000, generator=generator).to(BF16)
    gpu.sample = _of_masks
    with kernels.use_backend("triton"):
        drawn = kernels.threshold_masks(logits, (9, 7))
    with kernels.use_backend("reference"):
        exact = kernels.threshold_masks(logits[chosen].double(), (9, 7))
    assert torch.equal(drawn[chosen], exact), "masks differ"
