"""Deformable attention: outputs and all gradients, and what only compiled code can get wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from random import Random
from typing import Any
from unittest import mock

import torch

from bench.emulator.proofs.proof import Extent, Proof
from bench.emulator.session import EmulatedGPU
from bench.problems.deformable_attention import Problem, compare

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
KINDS = {0: "locations", 2: "points", 4: "boxes"}
MODEL = {"shapes": ((5, 8), (3, 4), (2, 2), (1, 1)), "M": 8, "D": 32, "P": 4, "Q": 19}
"""Heads, channels, levels and points of the model; the other sizes are small."""


def proofs() -> Iterator[Proof]:
    """All of them, the quickest first."""
    yield from _model_proofs()
    yield from _edge_proofs()
    yield from _other_models()
    for seed in range(12):
        problem, dtype = _random_problem(Random(seed))
        yield _proof(f"random problem {seed}", problem, dtype, extent="full")


def _model_proofs() -> Iterator[Proof]:
    """Every variant that the model launches."""
    for kind, dtype in product(KINDS, (FP32, FP16, BF16)):
        is_quick = (kind, dtype) in ((0, FP32), (2, BF16), (4, FP16))
        yield _proof(
            f"model {KINDS[kind]}",
            Problem(kind=kind, is_padded=kind > 0, **MODEL),
            dtype,
            frozen=(3,) * (kind > 0),
            extent="quick" if is_quick else "default",
        )
    yield _proof("model, references trained", Problem(kind=2, is_padded=True, **MODEL))
    yield _proof(
        "model, points shared by frames",
        Problem(kind=2, B=6, share=3, is_padded=True, **MODEL),
        frozen=(3,),
    )
    for dtype in (FP32, FP16, BF16):
        yield _proof(
            "model, programs of several warps",
            Problem(kind=2, B=1, is_padded=True, **MODEL),
            dtype,
            few_rows=0,
            frozen=(3,),
            extent="quick" if dtype == FP32 else "default",
        )
    yield _proof("model, deterministic", Problem(kind=2, **MODEL), is_deterministic=True)


def _edge_proofs() -> Iterator[Proof]:
    """Sizes and addresses at which compiled code differs."""
    narrow = ((5, 1), (1, 1), (1, 4))
    yield _proof("levels one cell wide", Problem(shapes=narrow, kind=2, D=8), extent="quick")
    yield _proof("samples far outside", Problem(kind=0, spread=1e6, Q=9, D=16))
    for dtype, skipped in ((BF16, 1), (FP16, 1), (FP32, 1), (FP32, 2)):
        yield _proof(
            f"inputs {skipped * dtype.itemsize} bytes off",
            Problem(kind=2, D=32, Q=7, is_padded=True),
            dtype,
            skipped=skipped,
            extent="quick" if dtype == BF16 else "default",
        )
    yield _proof("no queries", Problem(kind=2, Q=0), is_empty=True)
    yield _proof(
        "padding to nothing", Problem(shapes=((1, 2), (2, 1)), kind=4, is_padded=True, seed=4)
    )
    for few, D in product((0, 65_536), (128, 256, 512)):
        extent: Extent = "quick" if (few, D) == (0, 256) else "full" if D == 512 else "default"
        shape = Problem(kind=2, B=1, Q=5, M=1, D=D)
        yield _proof(f"wide heads, rows {few}", shape, few_rows=few, extent=extent)
    yield _proof("wide heads, deterministic", Problem(Q=3, M=1, D=256), is_deterministic=True)


def _other_models() -> Iterator[Proof]:
    """Heads, levels and points of other models."""
    for D, L, P in (
        (16, 4, 4),
        (24, 4, 4),
        (64, 4, 4),
        (3, 1, 4),
        (7, 3, 5),
        (32, 4, 1),
        (4, 5, 9),
    ):
        shapes = ((4, 6), (2, 3), (1, 2), (2, 2), (1, 3))[:L]
        for kind, dtype in ((2, FP32), (0, BF16)):
            shape = Problem(shapes=shapes, kind=kind, D=D, P=P, Q=5)
            yield _proof(f"L{L} P{P} {KINDS[kind]}", shape, dtype, extent="full")


def _proof(
    name: str,
    problem: Problem,
    dtype: torch.dtype = FP32,
    *,
    frozen: Sequence[int] = (),
    skipped: int = 0,
    few_rows: int | None = None,
    is_deterministic: bool = False,
    is_empty: bool = False,
    extent: Extent = "default",
) -> Proof:
    def run(gpu: EmulatedGPU) -> None:
        torch.use_deterministic_algorithms(is_deterministic)
        try:
            with few_rows_are(few_rows):
                compare("triton", problem, dtype, FP32, frozen=frozen, skipped=skipped)
        finally:
            torch.use_deterministic_algorithms(False)

    full_name = f"msda {name} {str(dtype).removeprefix('torch.')} D{problem.D}"
    return Proof(name=full_name, run=run, extent=extent, is_empty=is_empty)


def few_rows_are(number: int | None) -> Any:
    """Programs get several warps from this number of rows on, in place of the table's."""
    from kernels import msda_table

    return mock.patch.object(
        msda_table, "FEW_ROWS", msda_table.FEW_ROWS if number is None else number
    )


def _random_problem(random: Random) -> tuple[Problem, torch.dtype]:
    def size() -> int:
        return random.randint(1, 6)

    kind = random.choice((0, 2, 4))
    problem = Problem(
        shapes=tuple((size(), size()) for _ in range(random.randint(1, 3))),
        B=random.randint(1, 2),
        Q=random.randint(1, 9),
        M=random.randint(1, 3),
        D=random.choice((1, 3, 4, 7, 8, 12, 16, 40, 100)),
        P=random.randint(1, 5),
        kind=kind,
        is_padded=kind > 0 and random.random() < 0.5,
        seed=random.randint(0, 2**16),
        spread=random.choice((0.1, 0.4, 3.0)),
    )
    return problem, random.choice((FP32, FP16, BF16))
