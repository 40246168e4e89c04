"""Dynamic mask head: golden case, the published grouped-convolution form, gradients, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_weights import DATA

import kernels


def inputs(B, T, N, h, w, seed=0):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(B, T, 8, h, w, generator=g, dtype=torch.float64)
    params = torch.randn(N, 169, generator=g, dtype=torch.float64) * 0.3
    references = torch.rand(N, T, 2, generator=g, dtype=torch.float64) * 8 * max(h, w)
    clip = torch.randint(B, (N,), generator=g)
    return features, params, references, clip


def grouped_convolutions(features, params, references, clip, stride):
    """One instance and one frame at a time, by convolutions and padded resizing."""
    N, T = references.shape[:2]
    h, w = features.shape[-2:]
    out = []
    for n in range(N):
        w0, w1, w2, b0, b1, b2 = params[n].split([80, 64, 8, 8, 8, 1])
        for t in range(T):
            row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            x = references[n, t, 0] - (stride * column + stride // 2)
            y = references[n, t, 1] - (stride * row + stride // 2)
            z = torch.cat([torch.stack([x, y]), features[clip[n], t]])[None]
            z = F.conv2d(z, w0.view(8, 10, 1, 1), b0).relu()
            z = F.conv2d(z, w1.view(8, 8, 1, 1), b1).relu()
            z = F.conv2d(z, w2.view(1, 8, 1, 1), b2)
            z = F.pad(z, (0, 1, 0, 1), mode="replicate")
            z = F.interpolate(z, (2 * h + 1, 2 * w + 1), mode="bilinear", align_corners=True)
            out.append(F.pad(z, (1, 0, 1, 0), mode="replicate")[0, 0, : 2 * h, : 2 * w])
    return torch.stack(out).view(N, T, 2 * h, 2 * w)


def test_golden():
    case = {
        k: torch.from_numpy(v)
        for k, v in np.load(DATA / "parity" / "mask_head_case.npz").items()
        if k != "meta"
    }
    leaves = [
        case[name].double().requires_grad_() for name in ("features", "params", "reference_points")
    ]
    clip = torch.tensor([0] * 3 + [1] * 5)
    out = kernels.dynamic_mask_head(leaves[0][:, None], leaves[1], leaves[2][:, None], clip)[:, 0]
    out.backward(case["grad_output"].double())
    assert (out - case["output"]).abs().max() <= 1e-5
    for leaf, name in zip(leaves, ("features", "params", "reference_points"), strict=True):
        expected = case[f"grad_{name}"]
        assert (leaf.grad - expected).norm() <= 1e-5 * expected.norm(), name


@settings(max_examples=25, deadline=None)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 3),
    N=st.integers(1, 4),
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    stride=st.sampled_from([2, 4, 8]),
    seed=st.integers(0, 2**16),
)
def test_equals_grouped_convolutions(B, T, N, h, w, stride, seed):
    tensors = inputs(B, T, N, h, w, seed)
    actual = kernels.dynamic_mask_head(*tensors, mask_stride=stride)
    expected = grouped_convolutions(*tensors, stride)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_gradcheck():
    features, params, references, clip = inputs(2, 2, 3, 3, 2, seed=5)
    leaves = [t.requires_grad_() for t in (features, params, references)]
    assert torch.autograd.gradcheck(
        lambda f, p, r: kernels.dynamic_mask_head(f, p, r, clip), leaves
    )


def test_no_instances_stay_attached_to_the_graph():
    features, params, references, clip = inputs(2, 3, 0, 4, 5)
    leaves = [t.requires_grad_() for t in (features, params, references)]
    out = kernels.dynamic_mask_head(*leaves, clip)
    assert out.shape == (0, 3, 8, 10)
    out.sum().backward()
    assert all(torch.equal(leaf.grad, torch.zeros_like(leaf)) for leaf in leaves)


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (1, 2, 7, 3, 3), r"mask_features must be \[B, T, 8, h, w\]"),
        (1, (4, 168), r"mask_params must be \[N, 169\]"),
        (2, (4, 3, 2), r"reference_points must be \[N, T, 2\] = \[4, 2, 2\]"),
        (3, (5,), r"clip_index must be \[N\] = \[4\]"),
    ],
)
def test_bad_shapes_are_named(index, shape, message):
    tensors = list(inputs(1, 2, 4, 3, 3))
    tensors[index] = torch.zeros(shape, dtype=tensors[index].dtype)
    with pytest.raises(ValueError, match=message):
        kernels.dynamic_mask_head(*tensors)
