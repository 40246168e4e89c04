"""The mask head and its losses: results and all gradients against float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from bench.offline.emulator.proofs.proof import Extent, Proof
from bench.offline.emulator.session import EmulatedGPU
from bench.suite.problems.mask_head import OTHER_HEADS, HeadCase, make_case, run_head, run_loss
from bench.suite.tolerances import assert_near

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
NAMES = ("result", "grad_features", "grad_params", "grad_references")


def proofs() -> Iterator[Proof]:
    """Heads first, then losses."""
    yield from _head_proofs()
    yield from _loss_proofs()


def _head_proofs() -> Iterator[Proof]:
    for dtype in (FP32, FP16, BF16):
        extent: Extent = "quick" if dtype == FP32 else "default"
        yield _head("model", (2, 2, 3, 7, 10), dtype, extent=extent)
    yield _head("a clip without instances", (3, 1, 2, 3, 5), seed=5)
    yield _head("no instances", (1, 2, 0, 4, 4), extent="quick")
    yield _head("one cell, many instances", (2, 1, 40, 1, 1))
    yield _head("one column", (1, 2, 2, 9, 1))
    yield _head("inputs four bytes off", (1, 1, 2, 5, 6), skipped=1)
    yield _head("long strips and pieces", (1, 2, 2, 33, 29), tables={"ENOUGH_LANES": 1})
    yield _head(
        "many pieces", (1, 1, 1, 40, 60), tables={"ENOUGH_PROGRAMS": 1 << 20, "ENOUGH_LANES": 1}
    )
    for name, options in OTHER_HEADS.items():
        yield _head(name, (1, 2, 2, 3, 5), extent="full", **options)


def _loss_proofs() -> Iterator[Proof]:
    yield _loss("model", (2, 2, 3, 7, 10), 1, extent="quick")
    for dtype in (FP16, BF16):
        yield _loss("model", (2, 2, 3, 5, 6), 1, dtype)
    yield _loss("targets at full size", (2, 1, 3, 6, 5), 4)
    yield _loss("no instances", (1, 2, 0, 4, 4), 1)
    yield _loss("one cell", (1, 1, 3, 1, 1), 1)
    yield _loss("long strips", (1, 2, 2, 33, 29), 1, tables={"ENOUGH_LANES": 1})
    for factor, gamma in ((1, 0.0), (4, 1.5), (1, 1.0)):
        yield _loss(
            f"upsampling by {factor}, gamma {gamma}",
            (1, 1, 2, 3, 4),
            2,
            gamma=gamma,
            extent="full",
            upsample=factor,
        )


def _head(
    name: str,
    sizes: tuple[int, int, int, int, int],
    dtype: torch.dtype = FP32,
    *,
    seed: int = 1,
    skipped: int = 0,
    tables: dict[str, int] | None = None,
    extent: Extent = "default",
    **options: Any,
) -> Proof:
    """Args: sizes: B, T, N, h and w."""

    def run(gpu: EmulatedGPU) -> None:
        case = rounded(make_case(*sizes, seed=seed, **options), dtype)
        grad = _normal(case.out_shape(), seed).to(dtype).double()
        expected = run_head("reference", case, grad)
        with tables_with(tables):
            _check(run_head("triton", case, grad, dtype, skipped), expected, dtype)

    return Proof(name=f"mask head {name} {_short(dtype)}", run=run, extent=extent)


def _loss(
    name: str,
    sizes: tuple[int, int, int, int, int],
    target_stride: int,
    dtype: torch.dtype = FP32,
    *,
    gamma: float = 2.0,
    seed: int = 1,
    tables: dict[str, int] | None = None,
    extent: Extent = "default",
    **options: Any,
) -> Proof:
    """Args: sizes: B, T, N, h and w."""

    def run(gpu: EmulatedGPU) -> None:
        case = rounded(make_case(*sizes, seed=seed, **options), dtype)
        targets, index = targets_of(case, target_stride, seed)
        grad = _normal((len(index), 4), seed)
        named = {"target_stride": target_stride, "target_index": index, "gamma": gamma}
        expected = run_loss("reference", case, targets, grad, **named)
        with tables_with(tables):
            _check(run_loss("triton", case, targets, grad, dtype, **named), expected, dtype)

    return Proof(name=f"mask loss {name} {_short(dtype)}", run=run, extent=extent)


def targets_of(case: HeadCase, target_stride: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random masks [2, T, ...], of a size that the stride does not divide, and whose they are."""
    generator = torch.Generator().manual_seed(seed)
    N, T, height, width = case.out_shape()
    cut = int(target_stride > 1)
    size = (2, T, target_stride * height - cut, target_stride * width - cut)
    return torch.rand(size, generator=generator) > 0.5, torch.randint(2, (N,), generator=generator)


def rounded(case: HeadCase, dtype: torch.dtype) -> HeadCase:
    """The case with numbers that the dtype can hold."""
    case.tensors = tuple(t.to(dtype).double() for t in case.tensors)
    return case


@contextmanager
def tables_with(changes: dict[str, int] | None) -> Iterator[None]:
    """Other thresholds in the launch table: what large inputs have, on small ones."""
    from kernels.mask_head import launch, tiles

    def forget() -> None:
        """What launchers remember of the table."""
        for value in vars(launch).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()

    with mock.patch.multiple(tiles, **changes) if changes else nullcontext():
        forget()
        try:
            yield
        finally:
            forget()


def _check(actual: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for name, tensor, exact in zip(NAMES, actual, expected, strict=True):
        assert_near(tensor, exact, dtype, name)


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 100)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
