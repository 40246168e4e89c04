"""What only a GPU shows: races, low precision in hardware, real sizes, 64-bit offsets, no waits."""

from __future__ import annotations

import pytest
import torch

import kernels
from bench.suite.msda_calls import MSDACall
from bench.suite.problems.deformable_attention import Problem, compare
from bench.suite.tolerances import assert_near

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = torch.device("cuda")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("kind", [0, 2, 4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("D", [3, 8, 24, 32, 64, 256])
@pytest.mark.parametrize("is_deterministic", [False, True])
def test_every_kind_and_dtype(kind, dtype, D, is_deterministic):
    problem = Problem(
        shapes=((13, 21), (7, 11), (1, 6), (1, 1)),
        Q=67,
        M=4,
        P=4,
        D=D,
        kind=kind,
        is_padded=kind > 0,
    )
    torch.use_deterministic_algorithms(is_deterministic)
    try:
        compare("triton", problem, dtype, torch.float32, "cuda")
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries", [None, 300])
@pytest.mark.parametrize("pattern", ["normal", "initial", "uniform"])
def test_model_sizes_against_float64(dtype, queries, pattern):
    case = MSDACall(height=360, width=640, frames=2, queries=queries, dtype=dtype, pattern=pattern)
    inputs = case.inputs(DEVICE)
    leaves = inputs.leaves()
    output = kernels.ms_deform_attn_fused(leaves[0], case.shapes, *leaves[1:], inputs.reference)
    grads = torch.autograd.grad(output, leaves, inputs.grad_output)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    exact = kernels.ms_deform_attn_fused_reference(
        wide[0], case.shapes, *wide[1:], inputs.reference.double()
    )
    exact_grads = torch.autograd.grad(exact, wide, inputs.grad_output.double())
    names = ("output", "value", "offsets", "logits")
    for name, a, b in zip(names, (output, *grads), (exact, *exact_grads), strict=True):
        if name == "offsets" and pattern == "initial":
            continue  # samples lie on the kinks, where float32 and float64 fall on different sides
        assert_near(a, b, dtype if name in ("output", "value") else torch.float32, name)


def test_deterministic_gradients_are_the_same_bit_for_bit():
    case = MSDACall(height=360, width=640, frames=4)
    inputs = case.inputs(DEVICE)

    def grads() -> tuple[torch.Tensor, ...]:
        leaves = inputs.leaves()
        output = kernels.ms_deform_attn_fused(leaves[0], case.shapes, *leaves[1:], inputs.reference)
        return torch.autograd.grad(output, leaves, inputs.grad_output)

    torch.use_deterministic_algorithms(True)
    try:
        first = grads()
        for _ in range(5):
            assert all(torch.equal(a, b) for a, b in zip(first, grads(), strict=True))
    finally:
        torch.use_deterministic_algorithms(False)


def test_values_beyond_32_bit_offsets():
    """One image of 2^31 elements and more; only its last level is looked at."""
    free, _ = torch.cuda.mem_get_info()
    shapes = ((2900, 2900), (2, 3))
    S = sum(h * w for h, w in shapes)
    if free < 3 * S * 256 * 2:
        pytest.skip("needs about 13 GB of free GPU memory")
    value = torch.zeros(1, S, 8, 32, device=DEVICE, dtype=torch.bfloat16)
    value[:, -6:] = 1.0
    locations = torch.full((1, 4, 8, 2, 1, 2), 0.5, device=DEVICE)
    weights = torch.ones(1, 4, 8, 2, 1, device=DEVICE)
    output = kernels.ms_deform_attn(value, shapes, locations, weights)
    assert torch.equal(output, torch.ones_like(output))


def test_a_call_never_waits_for_the_device():
    case = MSDACall(height=96, width=160, frames=2)
    inputs = case.inputs(DEVICE)
    leaves = inputs.leaves()
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for is_deterministic in (False, True):
            torch.use_deterministic_algorithms(is_deterministic)
            output = kernels.ms_deform_attn_fused(
                leaves[0], case.shapes, *leaves[1:], inputs.reference
            )
            torch.autograd.grad(output, leaves, inputs.grad_output)
    finally:
        torch.cuda.set_sync_debug_mode(before)
        torch.use_deterministic_algorithms(False)


def test_compiles_with_inductor():
    case = MSDACall(height=96, width=160, frames=2)
    inputs = case.inputs(DEVICE)

    def layer(value, offsets, logits):
        return kernels.ms_deform_attn_fused(
            value * 2, case.shapes, offsets, logits, inputs.reference
        ).relu()

    leaves = inputs.leaves()
    compiled = torch.compile(layer, fullgraph=True)
    expected, grads = (
        torch.autograd.grad(f(*leaves), leaves, inputs.grad_output) for f in (layer, compiled)
    )
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_other_device_tensors_are_refused():
    value = torch.zeros(1, 1, 1, 4, device=DEVICE)
    weights = torch.zeros(1, 1, 1, 1, 1, device=DEVICE)
    with pytest.raises(ValueError, match="sampling_locations is on cpu but value is on cuda"):
        kernels.ms_deform_attn(value, [(1, 1)], torch.zeros(1, 1, 1, 1, 1, 2), weights)
