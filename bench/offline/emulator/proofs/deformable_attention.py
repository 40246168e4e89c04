"""Deformable attention: outputs and all gradients, and what only compiled code can get wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

import torch

from bench.offline.emulator.proofs.proof import Extent, Proof
from bench.offline.emulator.session import EmulatedGPU
from bench.suite.implementations import merged_adds
from bench.suite.problems.deformable_attention import Problem, compare
from kernels.deformable_attention.launch_merged import RECORD_BYTES

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
KINDS = {0: "locations", 2: "points", 4: "boxes"}
DECODER = {"shapes": ((5, 8), (3, 4), (2, 3), (2, 2)), "M": 8, "D": 32, "P": 4, "Q": 19}
ENCODER = DECODER | {"Q": 62}
"""Heads, channels, levels and points of the model; the other sizes are small. As many queries as
tokens make an encoder layer, whose programs have several warps."""


def proofs() -> Iterator[Proof]:
    """All of them, the quickest first."""
    yield from _model_proofs()
    yield from _edge_proofs()
    yield from _merged_proofs()
    yield from _other_models()
    for seed in range(12):
        problem, dtype = _random_problem(Random(seed))
        yield _proof(f"random problem {seed}", problem, dtype, extent="full")


def _model_proofs() -> Iterator[Proof]:
    """Every form that the model launches."""
    for (layer, sizes), kind, dtype in product(LAYERS.items(), KINDS, (FP32, FP16, BF16)):
        is_quick = (layer, kind, dtype) in (
            ("encoder", 2, FP32),
            ("encoder", 2, BF16),
            ("decoder", 4, FP16),
            ("decoder", 0, FP32),
        )
        yield _proof(
            f"{layer} {KINDS[kind]}",
            Problem(kind=kind, is_padded=kind > 0, **sizes),
            dtype,
            frozen=(3,) * (kind > 0),
            extent="quick" if is_quick else "default",
        )
    for layer, sizes in LAYERS.items():
        problem = Problem(kind=2, is_padded=True, **sizes)
        yield _proof(f"{layer}, references trained", problem)
        yield _proof(f"{layer}, deterministic", problem, frozen=(3,), is_deterministic=True)
        for dtype in (FP16, BF16):
            yield _proof(f"{layer}, all inputs half", problem, dtype, points_dtype=dtype)
    many = DECODER | {"Q": 300}  # rows enough for programs of several warps
    for kind, dtype in ((2, FP32), (4, BF16)):
        problem = Problem(kind=kind, is_padded=True, **many)
        yield _proof(f"decoder of 300 queries, {KINDS[kind]}", problem, dtype, frozen=(3,))
    shared = Problem(kind=2, B=6, share=3, is_padded=True, **DECODER)
    yield _proof("decoder, points shared by frames", shared, frozen=(3,))


LAYERS = {"encoder": ENCODER, "decoder": DECODER}


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
    # One level of nine cells: with nine queries, programs of several warps.
    for Q, D in product((9, 5), (128, 256, 512)):
        extent: Extent = "quick" if (Q, D) == (9, 256) else "full" if D == 512 else "default"
        shape = Problem(shapes=((3, 3),), kind=2, B=1, Q=Q, M=1, D=D)
        yield _proof(f"wide heads, {Q} queries", shape, extent=extent)
    wide = Problem(shapes=((3, 3),), Q=9, M=1, D=256)
    yield _proof("wide heads, deterministic", wide, is_deterministic=True)


def _merged_proofs() -> Iterator[Proof]:
    """The backward that merges adds, for problems of any size."""
    for kind, dtype in product(KINDS, (FP32, FP16, BF16)):
        problem = Problem(kind=kind, is_padded=kind > 0, **ENCODER)
        extent: Extent = "quick" if (kind, dtype) == (2, FP32) else "default"
        yield _merged(f"encoder {KINDS[kind]}", problem, dtype, extent=extent)
    yield _merged("encoder without padding", Problem(kind=2, **ENCODER))
    half = Problem(kind=2, is_padded=True, **ENCODER)
    yield _merged("encoder, all inputs half", half, BF16, points_dtype=BF16)
    yield _merged("encoder, 2 bytes off", half, BF16, skipped=1)
    yield _merged("points shared by frames", Problem(**vars(half) | {"B": 6, "share": 3}))
    yield _merged("two images at a time", Problem(**vars(half) | {"B": 3}), images=2)
    narrow = ((5, 1), (1, 1), (1, 4))
    yield _merged("levels one cell wide", Problem(shapes=narrow, kind=2, D=8, Q=70))
    nothing = Problem(shapes=((1, 2), (2, 1)), kind=4, D=8, is_padded=True, seed=4)
    yield _merged("padding to nothing", nothing)
    yield _merged("samples far outside", Problem(kind=0, spread=1e6, Q=9, D=16))
    for D, P in ((16, 5), (64, 1), (256, 3)):
        problem = Problem(kind=2, D=D, P=P, Q=40)
        yield _merged(f"P{P}", problem, extent="full")


def _merged(
    name: str, problem: Problem, dtype: torch.dtype = FP32, *, images: int = 0, **options: Any
) -> Proof:
    """
    Args:
        images: that have room in scratch memory at a time; 0 for all.
        options: of `_proof`.
    """
    samples = problem.Q * problem.M * len(problem.shapes) * problem.P
    room = {"SCRATCH_BYTES": images * samples * RECORD_BYTES} if images else {}
    frozen = (3,) * (problem.kind > 0)
    proof = _proof(f"merged, {name}", problem, dtype, frozen=frozen, **options)

    def run(gpu: EmulatedGPU) -> None:
        first = len(gpu.launches)
        with merged_adds(**room):
            proof.run(gpu)
        assert any("merge_kernel" in launch.kernel for launch in gpu.launches[first:])

    return replace(proof, run=run)


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
    points_dtype: torch.dtype = FP32,
    is_deterministic: bool = False,
    is_empty: bool = False,
    extent: Extent = "default",
) -> Proof:
    def run(gpu: EmulatedGPU) -> None:
        torch.use_deterministic_algorithms(is_deterministic)
        try:
            compare("triton", problem, dtype, points_dtype, frozen=frozen, skipped=skipped)
        finally:
            torch.use_deterministic_algorithms(False)

    full_name = f"msda {name} {str(dtype).removeprefix('torch.')} D{problem.D}"
    return Proof(name=full_name, run=run, extent=extent, is_empty=is_empty)


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
