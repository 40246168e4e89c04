"""Deformable attention: golden cases, the reference against autograd, the CPU path against it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_weights import DATA

import kernels


def inputs(B, Q, M, D, P, shapes, seed=0, dtype=torch.float64, spread=0.4):
    """Random value, locations (some outside the levels) and normalised weights."""
    g = torch.Generator().manual_seed(seed)
    S, L = sum(h * w for h, w in shapes), len(shapes)
    value = torch.randn(B, S, M, D, generator=g, dtype=dtype)
    locations = torch.rand(B, Q, M, L, P, 2, generator=g, dtype=dtype) * (1 + spread) - spread / 2
    weights = torch.rand(B, Q, M, L * P, generator=g, dtype=dtype).softmax(-1).view(B, Q, M, L, P)
    return value, locations, weights


def run(backend, shapes, tensors, grad_output):
    """Output and the three gradients under a backend."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    with kernels.use_backend(backend):
        output = kernels.ms_deform_attn(leaves[0], shapes, leaves[1], leaves[2])
    output.backward(grad_output)
    return output.detach(), *(t.grad for t in leaves)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("case", ["msda_case", "msda_case_odd"])
def test_golden(case, backend):
    golden = {
        k: torch.from_numpy(v)
        for k, v in np.load(DATA / "parity" / f"{case}.npz").items()
        if k != "meta"
    }
    names = ("value", "sampling_locations", "attention_weights")
    shapes = golden["spatial_shapes"]
    actual = run(backend, shapes, [golden[n] for n in names], golden["grad_output"])
    for name, tensor in zip(("output", *(f"grad_{n}" for n in names)), actual, strict=True):
        torch.testing.assert_close(tensor, golden[name], rtol=0, atol=1e-10, msg=name)


@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 3),
    Q=st.integers(0, 7),
    M=st.integers(1, 3),
    D=st.integers(1, 9),
    P=st.integers(1, 4),
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
    spread=st.sampled_from([0.0, 0.4, 3.0, 1e6]),
)
def test_cpu_path_equals_reference(B, Q, M, D, P, shapes, seed, spread):
    tensors = inputs(B, Q, M, D, P, shapes, seed, spread=spread)
    grad_output = torch.randn(B, Q, M * D, dtype=torch.float64)
    reference = run("reference", shapes, tensors, grad_output)
    for actual, expected in zip(run("auto", shapes, tensors, grad_output), reference, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("blocks", [(1 << 6, 1 << 8), (1 << 8, 1 << 20)])
def test_blocking_changes_nothing(blocks, monkeypatch):
    module = kernels.msda_cpu
    shapes = [(5, 7), (3, 4), (1, 1)]
    tensors = inputs(5, 11, 2, 8, 3, shapes)
    grad_output = torch.randn(5, 11, 16, dtype=torch.float64)
    whole = run("auto", shapes, tensors, grad_output)
    monkeypatch.setattr(module, "_BLOCK_CORNERS", blocks[0])
    monkeypatch.setattr(module, "_GROUP_CORNERS", blocks[1])
    for actual, expected in zip(run("auto", shapes, tensors, grad_output), whole, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradcheck_off_the_kinks(backend):
    shapes = [(4, 5), (2, 3)]
    value, locations, weights = inputs(2, 3, 2, 3, 2, shapes, seed=3)
    sizes = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float64)[:, None]
    # keep every sample at least 0.05 cells away from the lines where bilinear weights bend
    cells = locations * sizes - 0.5
    cells = cells.floor() + (cells - cells.floor()).clamp(0.05, 0.95)
    locations = (cells + 0.5) / sizes
    leaves = [t.requires_grad_() for t in (value, locations, weights)]
    with kernels.use_backend(backend):
        assert torch.autograd.gradcheck(
            lambda v, x, a: kernels.ms_deform_attn(v, shapes, x, a), leaves
        )


def test_pixel_centres_borders_and_outside_by_hand():
    # one level of 2 x 2 with values 1 2 / 3 4
    value = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).view(1, 4, 1, 1)
    points = {
        (0.25, 0.25): 1.0,  # centre of the first cell
        (0.75, 0.75): 4.0,
        (0.5, 0.5): 2.5,  # all four, a quarter each
        (0.0, 0.25): 0.5,  # on the border: half a cell lies outside, which reads zero
        (0.0, 0.0): 0.25,
        (-0.25, 0.25): 0.0,  # the last point that is zero
        (1e9, 0.5): 0.0,
        (-1e30, float("inf")): 0.0,
    }
    locations = torch.tensor(list(points), dtype=torch.float64).view(1, -1, 1, 1, 1, 2)
    weights = torch.ones(1, len(points), 1, 1, 1, dtype=torch.float64)
    out = kernels.ms_deform_attn(value, [(2, 2)], locations, weights)
    assert out.flatten().tolist() == list(points.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_value_keeps_float32_locations(dtype):
    shapes = [(6, 9), (3, 5)]
    tensors = inputs(2, 5, 2, 8, 4, shapes)
    exact = kernels.ms_deform_attn(tensors[0], shapes, *tensors[1:])
    value, locations, weights = tensors[0].to(dtype), tensors[1].float(), tensors[2].float()
    out = kernels.ms_deform_attn(value, shapes, locations, weights)
    assert out.dtype == dtype
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    assert (out.double() - exact).norm() <= tolerance * exact.norm()


def test_non_contiguous_inputs():
    shapes = [(3, 4)]
    value, locations, weights = inputs(2, 5, 2, 6, 2, shapes)
    grad_output = torch.randn(2, 5, 12, dtype=torch.float64)
    expected = run("reference", shapes, (value, locations, weights), grad_output)
    strided = (
        value.transpose(0, 1).contiguous().transpose(0, 1),
        locations.flip(1).flip(1).transpose(0, 1).contiguous().transpose(0, 1),
        weights.transpose(0, 2).contiguous().transpose(0, 2),
    )
    for actual, wanted in zip(run("auto", shapes, strided, grad_output), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_two_runs_and_thread_counts_agree_bit_for_bit():
    shapes = [(12, 20), (6, 10)]
    tensors = inputs(3, 300, 4, 16, 4, shapes, dtype=torch.float32)
    grad_output = torch.randn(3, 300, 64)
    first = run("auto", shapes, tensors, grad_output)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        second = run("auto", shapes, tensors, grad_output)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": (2, 12, 2)}, r"value must be \[B, S, M, D\], got shape \[2, 12, 2\]"),
        ({"value": (2, 11, 2, 6)}, "hold 12 tokens but value has S = 11"),
        ({"locations": (2, 5, 2, 2, 2, 2)}, "sampling_locations do not fit"),
        ({"weights": (2, 5, 2, 1, 3)}, "attention_weights do not fit"),
    ],
)
def test_bad_shapes_are_named(change, message):
    shapes = {"value": (2, 12, 2, 6), "locations": (2, 5, 2, 1, 2, 2), "weights": (2, 5, 2, 1, 2)}
    value, locations, weights = (torch.zeros(s) for s in (shapes | change).values())
    with pytest.raises(ValueError, match=message):
        kernels.ms_deform_attn(value, [(3, 4)], locations, weights)


def test_bad_dtype_and_backend():
    value, locations, weights = inputs(1, 1, 1, 1, 1, [(1, 1)])
    with pytest.raises(ValueError, match="value must be a floating-point tensor"):
        kernels.ms_deform_attn(value.long(), [(1, 1)], locations, weights)
    with (
        pytest.raises(ValueError, match="backend 'cuda' is unknown"),
        kernels.use_backend("cuda"),
    ):
        pass
    assert kernels.current_backend() == "auto"
