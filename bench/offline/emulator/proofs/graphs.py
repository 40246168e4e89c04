"""Forward kernels as operators that compilers look into (`triton_in_graph.py`), against float64."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch

import kernels
from bench.offline.emulator.proofs.proof import Extent, Proof
from bench.offline.emulator.session import EmulatedGPU
from bench.suite.tolerances import assert_near

SHAPES = [(4, 5), (3, 4), (2, 3), (2, 2)]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def proofs() -> Iterator[Proof]:
    """One to four levels around points and boxes, then masks; every dtype."""
    for dtype in DTYPES:
        kind = str(dtype).removeprefix("torch.")
        extent: Extent = "quick" if dtype == torch.float32 else "default"
        for levels, numbers in product((1, 3, 4), (2, 4)):
            name = f"attention in a graph, {levels} levels, {numbers} numbers {kind}"
            run = partial(_attention, levels, numbers, dtype)
            yield Proof(name=name, run=run, extent=extent if levels == 4 else "default")
        run = partial(_masks, dtype)
        yield Proof(name=f"mask head in a graph {kind}", run=run, extent=extent)


def _attention(levels: int, numbers: int, dtype: torch.dtype, gpu: EmulatedGPU) -> None:
    from kernels.deformable_attention.triton_in_graph import forward

    normal = partial(torch.randn, generator=torch.Generator().manual_seed(levels))
    shapes, B, Q, M, D, P = SHAPES[:levels], 2, 6, 8, 32, 4
    tokens = sum(h * w for h, w in shapes)
    value = normal(B, tokens, M, D).to(dtype)
    offsets, logits = normal(B, Q, M, levels, P, 2), normal(B, Q, M, levels, P)
    reference = normal(1, Q, levels, numbers).sigmoid()
    sides = [side for shape in shapes for side in shape]
    result = forward(value, offsets, logits, reference, sides)
    wide = (tensor.double() for tensor in (offsets, logits, reference))
    exact = kernels.ms_deform_attn_fused_reference(value.double(), shapes, *wide)
    assert_near(result, exact, dtype, "output")


def _masks(dtype: torch.dtype, gpu: EmulatedGPU) -> None:
    from kernels.mask_head.op import sizes_of
    from kernels.mask_head.triton_in_graph import forward

    normal = partial(torch.randn, generator=torch.Generator().manual_seed(1))
    features, params = normal(1, 2, 8, 9, 33).to(dtype), 0.3 * normal(3, 169)
    references, clips = 40 * normal(3, 2, 2).sigmoid(), torch.zeros(3, dtype=torch.int64)
    result = forward(features, params, references, clips, sizes_of(kernels.MaskHeadConfig()))
    wide = (tensor.double() for tensor in (features, params, references))
    assert_near(result, kernels.dynamic_mask_head_reference(*wide, clips), dtype, "logits")
