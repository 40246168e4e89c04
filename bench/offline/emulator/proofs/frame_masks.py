"""Masks at the frame's size: the bytes and bits of the definition."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

import kernels
from bench.offline.emulator.proofs.proof import Extent, Proof
from bench.offline.emulator.session import EmulatedGPU

SIZES = {"odd": ((7, 10), (33, 50)), "one cell": ((1, 1), (3, 2)), "smaller": ((9, 8), (5, 3))}
"""Cells of the logits and pixels of the frame, (height, width)."""


def proofs() -> Iterator[Proof]:
    """Bytes and bits, every dtype; frames with more rows than a program."""
    for packed, dtype, size in product((False, True), _DTYPES, SIZES):
        is_quick = size == "odd" and (packed, dtype) in (
            (False, torch.float32),
            (True, torch.bfloat16),
        )
        yield _proof(size, *SIZES[size], packed, dtype, "quick" if is_quick else "default")
    yield _proof("tall", (20, 3), (300, 9), False, torch.float32, "default")
    yield _proof("tall", (40, 3), (1100, 9), True, torch.float32, "default")


_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _proof(
    name: str,
    cells: tuple[int, int],
    frame: tuple[int, int],
    packed: bool,
    dtype: torch.dtype,
    extent: Extent,
) -> Proof:
    def run(gpu: EmulatedGPU) -> None:
        generator = torch.Generator().manual_seed(3)
        logits = torch.randn(3, *cells, generator=generator).to(dtype)
        with kernels.use_backend("triton"):
            drawn = kernels.threshold_masks(logits, frame, packed)
        with kernels.use_backend("reference"):
            exact = kernels.threshold_masks(logits.double(), frame, packed)
        assert torch.equal(drawn, exact), f"{int((drawn != exact).sum())} bytes differ"

    form = "bits" if packed else "bytes"
    return Proof(
        name=f"threshold {form} {name} {str(dtype).removeprefix('torch.')}", run=run, extent=extent
    )
