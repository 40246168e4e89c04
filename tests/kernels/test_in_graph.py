"""Operators that a compiler looks into: they compute what others do, and it sees the kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import kernels
from kernels.mask_head.op import sizes_of

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
SHAPES = [(7, 9), (4, 5), (2, 3), (2, 2)]


@pytest.mark.parametrize("levels", [1, 3, 4])
@pytest.mark.parametrize("numbers", [2, 4])
def test_deformable_attention_is_the_same(levels, numbers):
    from kernels.deformable_attention.triton_in_graph import forward

    generator = torch.Generator().manual_seed(0)
    shapes, B, Q, M, D, P = SHAPES[:levels], 2, 5, 2, 8, 4
    S = sum(h * w for h, w in shapes)
    value = torch.randn(B, S, M, D, generator=generator)
    offsets = torch.randn(B, Q, M, levels, P, 2, generator=generator)
    logits = torch.randn(B, Q, M, levels, P, generator=generator)
    reference = torch.rand(1, Q, levels, numbers, generator=generator)
    expected = kernels.ms_deform_attn_fused_reference(value, shapes, offsets, logits, reference)
    sides = [side for shape in shapes for side in shape]
    result = forward(value, offsets, logits, reference, sides)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_what_a_graph_cannot_take_is_said():
    from kernels.deformable_attention.triton_in_graph import forward

    points = torch.zeros(1, 5, 2, 5, 4, 2)
    with pytest.raises(ValueError, match="5 levels are more than the 4"):
        forward(torch.zeros(1, 20, 2, 8), points, points[..., 0], None, [2] * 10)


@pytest.mark.parametrize("size", [(5, 7), (9, 33)])
def test_mask_head_is_the_same(size):
    from kernels.mask_head.triton_in_graph import forward

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 2, 8, *size, generator=generator)
    params = torch.randn(3, 169, generator=generator)
    references = 40 * torch.rand(3, 2, 2, generator=generator)
    clips = torch.zeros(3, dtype=torch.int64)
    expected = kernels.dynamic_mask_head_reference(features, params, references, clips)
    result = forward(features, params, references, clips, sizes_of(kernels.MaskHeadConfig()))
    scale = expected.abs().max().item()
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6 * scale)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Triton's compiler")
def test_inductor_gets_the_kernels():
    """Traced for a GPU that is not there: a launch is a node, of which only the output is written
    to, and the source that inductor writes of a kernel compiles where this package is not. On an
    emulated GPU, results have the bits of the proven launches."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.traced_kernels"],
        cwd=Path(__file__).parents[2],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["nodes"] == [["levels_kernel", ["output"]], ["numbers_kernel", ["out"]]]
    assert found["cubins"].keys() == {"levels_kernel", "numbers_kernel"}
    assert min(found["cubins"].values()) > 1000
    assert found["same"] == {"80": True, "90": True}
