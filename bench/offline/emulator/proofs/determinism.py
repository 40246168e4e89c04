"""Where determinism is promised, ten random orders of blocks and warps give the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

import kernels
from bench.offline.emulator.proofs.mask_head import rounded, tables_with, targets_of
from bench.offline.emulator.proofs.proof import Extent, Proof
from bench.offline.emulator.session import EmulatedGPU
from bench.suite.problems.deformable_attention import Problem
from bench.suite.problems.deformable_attention import rounded as rounded_problem
from bench.suite.problems.deformable_attention import run as run_problem
from bench.suite.problems.mask_head import make_case, run_head, run_loss

ORDERS = 10
Call = Callable[[], list[Tensor]]


def proofs() -> Iterator[Proof]:
    """Of every operator, in the deterministic mode."""
    # Coarse levels: many rows add to the same cells.
    crowded = {"shapes": ((2, 2), (1, 2), (1, 1)), "Q": 40, "D": 32, "B": 1}
    for kind, dtype in ((0, torch.float32), (2, torch.float32), (4, torch.bfloat16)):
        name = f"msda kind {kind} {str(dtype).removeprefix('torch.')}"
        yield _proof(
            name, _msda(Problem(kind=kind, **crowded), dtype), "quick" if kind == 2 else "default"
        )
    yield _proof("mask head", _head, "default")
    yield _proof("mask loss", _loss, "default")
    yield _proof("threshold", _threshold, "default")


def _proof(name: str, call: Call, extent: Extent) -> Proof:
    def run(gpu: EmulatedGPU) -> None:
        options, first = gpu.options, None
        torch.use_deterministic_algorithms(True)
        try:
            for seed in range(ORDERS):
                gpu.options = replace(options, order="random", seed=seed, worst_approximation=False)
                results = call()
                first = first or results
                for number, (one, other) in enumerate(zip(first, results, strict=True)):
                    assert torch.equal(one, other), (
                        f"order {seed} changes result {number} by {(one - other).abs().max():.1e}"
                    )
        finally:
            torch.use_deterministic_algorithms(False)

    return Proof(name=f"same bits in {ORDERS} orders, {name}", run=run, extent=extent)


def _msda(problem: Problem, dtype: torch.dtype) -> Call:
    def call() -> list[Tensor]:
        inputs = rounded_problem(problem, dtype, torch.float32)
        return list(run_problem("triton", problem, *inputs, dtype, torch.float32).values())

    return call


def _head() -> list[Tensor]:
    case = rounded(make_case(2, 2, 3, 9, 12), torch.float32)
    with tables_with({"ENOUGH_PROGRAMS": 1 << 20}):
        return run_head("triton", case, torch.ones(case.out_shape()), torch.float32)


def _loss() -> list[Tensor]:
    case = rounded(make_case(2, 2, 3, 9, 12), torch.float32)
    targets, index = targets_of(case, 1, seed=2)
    named = {"target_stride": 1, "target_index": index}
    return run_loss("triton", case, targets, torch.ones(3, 4), torch.float32, **named)


def _threshold() -> list[Tensor]:
    logits = torch.randn(3, 7, 10, generator=torch.Generator().manual_seed(0))
    with kernels.use_backend("triton"):
        return [kernels.threshold_masks(logits, (33, 50), packed) for packed in (False, True)]
