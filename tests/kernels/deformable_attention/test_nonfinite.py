"""Coordinates that are no numbers: every implementation reads zero there, as far outside."""

from __future__ import annotations

import pytest
import torch

import kernels
from kernels import c_library

SHAPES = [(4, 5), (2, 3)]
B, Q, M, L, P, D, S = 1, 3, 2, 2, 2, 4, 26
ODD = (float("nan"), float("inf"), -float("inf"), 3e38, -1e30)


@pytest.fixture(params=["reference", "C", "plain", "triton"])
def implementation(request, monkeypatch):
    if request.param == "triton" and torch.cuda.is_available():
        pytest.skip("Triton is not interpreted here")
    if request.param == "plain":
        monkeypatch.setenv(c_library.DISABLE_VARIABLE, "0")
    c_library.library.cache_clear()
    with kernels.use_backend({"C": "auto", "plain": "auto"}.get(request.param, request.param)):
        yield request.param
    c_library.library.cache_clear()


def problem():
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(B, S, M, D, generator=generator)
    points = torch.rand(B, Q, M, L, P, 2, generator=generator)
    logits = torch.randn(B, Q, M, L, P, generator=generator)
    return value, points, logits


def both_ways(call, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = call(*leaves)
    output.sum().backward()
    return output.detach(), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("bad", ODD)
@pytest.mark.parametrize("axes", [[0], [0, 1]], ids=str)
def test_locations(implementation, bad, axes):
    value, points, logits = problem()
    weights = logits.flatten(3).softmax(-1).view_as(logits)

    def call(v, p, w):
        return kernels.ms_deform_attn(v, SHAPES, p, w)

    outside = points.clone()
    outside[0, 1, 0, 0, 0] = 50.0
    points[0, 1, 0, 0, 0, axes] = bad
    output, grads = both_ways(call, value, points, weights)
    expected, expected_grads = both_ways(call, value, outside, weights)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(grads, expected_grads)
    assert not grads[1][0, 1, 0, 0, 0].any() and not grads[2][0, 1, 0, 0, 0]


@pytest.mark.parametrize("bad", ODD[:3])
@pytest.mark.parametrize("kind", [2, 4])
def test_offsets(implementation, bad, kind):
    """Of a box, the gradient is a product with the offset, and so is no number either."""
    value, points, logits = problem()
    reference = torch.rand(B, Q, L, kind, generator=torch.Generator().manual_seed(1))
    outside = points.clone()
    outside[0, 1, 0, 0, 0] = 1e4
    points[0, 1, 0, 0, 0, 0] = bad

    def call(v, o, w, r):
        return kernels.ms_deform_attn_fused(v, SHAPES, o, w, r)

    output, grads = both_ways(call, value, points, logits, reference)
    expected, expected_grads = both_ways(call, value, outside, logits, reference)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(grads[:3], expected_grads[:3])
    if kind == 4:
        assert torch.isnan(grads[3]).nonzero().tolist() == [[0, 1, 0, 2]]
    else:
        torch.testing.assert_close(grads[3], expected_grads[3])
