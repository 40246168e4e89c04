"""Mask losses straight from features: equal to the losses of the logits, on every path."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from bench.suite.implementations import CPU_PATHS, implementation
from bench.suite.problems.mask_head import OTHER_HEADS, make_case, run_loss
from bench.suite.tolerances import assert_near
from kernels.mask_head.inputs import MaskHeadConfig
from kernels.mask_head.op import sizes_of

NAMES = ("sums", "grad_features", "grad_params", "grad_references")


@pytest.mark.parametrize("cpu", CPU_PATHS)
@settings(max_examples=30, deadline=None)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 3),
    N=st.integers(0, 5),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    relative=st.sampled_from([None, *OTHER_HEADS]),
    target_stride=st.sampled_from([1, 2, 3, 4]),
    alpha=st.sampled_from([0.25, 0.6]),
    gamma=st.sampled_from([0.0, 1.0, 1.7, 2.0]),
    is_bytes=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_cpu_paths_equal_reference(
    cpu, B, T, N, h, w, relative, target_stride, alpha, gamma, is_bytes, seed
):
    case = make_case(B, T, N, h, w, seed, **OTHER_HEADS.get(relative, {}))
    g = torch.Generator().manual_seed(seed)
    _, _, height, width = case.out_shape()
    targets = torch.rand(2, T, target_stride * height, target_stride * width, generator=g) > 0.5
    targets = targets[..., : max(1, targets.shape[2] - seed % 3), :]  # background below
    if is_bytes:
        targets = targets.byte() * 255
    options = {
        "target_stride": target_stride,
        "target_index": torch.randint(2, (N,), generator=g),
        "alpha": alpha,
        "gamma": gamma,
    }
    grad = torch.randn(N, 4, generator=g, dtype=torch.float64)
    expected = run_loss("reference", case, targets, grad, **options)
    actual = run_loss(cpu, case, targets, grad, **options)
    for name, tensor, wanted in zip(NAMES, actual, expected, strict=True):
        assert_near(tensor, wanted, torch.float64, name)


def test_equals_losses_of_the_logits():
    """Two steps in float64, as a criterion would write them."""
    case = make_case(2, 3, 4, 5, 6)
    targets = torch.rand(4, 3, 10, 12) > 0.6
    logits = kernels.dynamic_mask_head(*case.tensors, case.clip_index).flatten(1)
    t = targets.flatten(1).double()
    prob = logits.sigmoid()
    p_t = prob * t + (1 - prob) * (1 - t)
    weight = 0.25 * t + 0.75 * (1 - t)
    cost = F.binary_cross_entropy_with_logits(logits, t, reduction="none")
    sums = kernels.dynamic_mask_loss(*case.tensors, case.clip_index, targets)
    torch.testing.assert_close(sums.focal, (weight * (1 - p_t) ** 2 * cost).sum(1))
    torch.testing.assert_close(sums.overlap, (prob * t).sum(1))
    torch.testing.assert_close(sums.area, prob.sum(1))
    torch.testing.assert_close(sums.target_area, t.sum(1))


@pytest.mark.parametrize("cpu", CPU_PATHS)
def test_small_passes_change_nothing(cpu, monkeypatch):
    case = make_case(2, 3, 5, 7, 6)
    targets = torch.rand(5, 3, 14, 12) > 0.5
    grad = torch.randn(5, 4, dtype=torch.float64)
    whole = run_loss(cpu, case, targets, grad)
    monkeypatch.setattr(kernels.mask_loss.cpu_torch, "_PIXELS", 100)
    monkeypatch.setattr(kernels.mask_head.cpu_torch, "_TILE", 1 << 9)
    monkeypatch.setattr(kernels.mask_head.cpu, "_PIXELS", 100)
    for name, tensor, wanted in zip(NAMES, run_loss(cpu, case, targets, grad), whole, strict=True):
        assert_near(tensor, wanted, torch.float64, name)


@pytest.mark.parametrize("cpu", CPU_PATHS)
@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.7, 2.0])
def test_single_precision(gamma, cpu):
    """Rows of more pixels than the C code takes at once; coordinates make logits large."""
    case = make_case(2, 2, 3, 2, 137, num_layers=2)
    features, params, references = (t.float() for t in case.tensors)
    case.tensors = (features.double(), params.double(), references.double())
    options = {"gamma": gamma, "target_stride": 3, "target_index": torch.tensor([2, 0, 2])}
    targets = (torch.rand(3, 2, 9, 900) > 0.5)[..., :700]  # strided; background to the right
    grad = torch.randn(3, 4, dtype=torch.float64)
    expected = run_loss("reference", case, targets, grad, **options)
    actual = run_loss(cpu, case, targets, grad, torch.float32, **options)
    for name, tensor, wanted in zip(NAMES, actual, expected, strict=True):
        assert_near(tensor, wanted, torch.float32, name)


@pytest.mark.parametrize("cpu", CPU_PATHS)
@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.7, 2.0])
def test_every_logit_to_the_last_digits(gamma, cpu):
    """A network whose logits are the channel: the gradient of each is that of its feature."""
    features = torch.linspace(-20, 20, 3001).view(1, 1, 1, 1, -1)
    params = torch.zeros(1, MaskHeadConfig(1, 8, 2, False, 1, 8).num_params)
    params[0, [0, 8]], params[0, [1, 9]] = 1.0, -1.0  # relu(x) - relu(-x)
    clip, results = torch.zeros(1, dtype=torch.long), []
    for name, dtype in ((cpu, torch.float32), ("reference", torch.float64)):
        leaf = features.to(dtype).requires_grad_()
        for is_object in (False, True):
            with implementation(name):
                sums = kernels.dynamic_mask_loss(
                    leaf, params.to(dtype), None, clip,
                    torch.full((1, 1, 1, 3001), is_object), gamma=gamma,
                    num_layers=2, relative_coordinates=False, upsample=1,
                )  # fmt: skip
                results += torch.autograd.grad(sums.focal.sum(), leaf)
    for actual, wanted in zip(results[:2], results[2:], strict=True):
        is_seen = wanted.abs() > 1e-20
        error = ((actual - wanted) / wanted)[is_seen].abs().max()
        assert error <= (3e-6 if cpu == "cpu" else 1e-4), error


def test_threads_change_nothing(monkeypatch):
    """Bit for bit, in parts of few instances."""
    monkeypatch.setattr(kernels.mask_head.cpu, "_PIXELS", 2 * 14 * 22)
    case = make_case(2, 3, 9, 7, 11)
    targets = torch.rand(9, 3, 14, 22) > 0.5
    grad = torch.randn(9, 4)
    threads, results = torch.get_num_threads(), []
    for n in (1, 3):
        torch.set_num_threads(n)
        try:
            results.append(run_loss("auto", case, targets, grad, torch.float32))
        finally:
            torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_large_logits_keep_a_gradient():
    """At +-80, exp overflows half of the naive formulas."""
    features = torch.full((1, 1, 1, 1, 2), 1.0)
    features[..., 1] = -1.0
    params = torch.zeros(1, MaskHeadConfig(1, 8, 2, False, 1, 8).num_params)
    params[0, 0], params[0, 1] = 80.0, -80.0  # units 0 and 1 see the channel with either sign
    params[0, 8], params[0, 9] = 1.0, -1.0
    params.requires_grad_()
    options = {"num_layers": 2, "relative_coordinates": False, "upsample": 1}
    for backend in ("reference", "triton", *CPU_PATHS):
        with implementation(backend):
            sums = kernels.dynamic_mask_loss(
                features,
                params,
                None,
                torch.zeros(1, dtype=torch.long),
                torch.tensor([[[[False, True]]]]),
                **options,
            )
            (grad,) = torch.autograd.grad(sums.focal.sum(), params)
        # both pixels are wrong: 80 nats each, weighed 3/4 and 1/4
        torch.testing.assert_close(sums.focal, torch.tensor([80.0]))
        torch.testing.assert_close(grad[0, 8], torch.tensor(60.0))
        torch.testing.assert_close(grad[0, 9], torch.tensor(-20.0))


def test_operator_is_well_behaved():
    case = make_case(2, 2, 3, 3, 4)
    leaves = [t.float().requires_grad_() for t in case.tensors]
    targets = torch.rand(3, 2, 6, 8) > 0.5
    sizes = sizes_of(MaskHeadConfig(8, 8, 3, True, 2, 8))
    torch.library.opcheck(
        torch.ops.seqformer_kernels.dynamic_mask_loss.default,
        (*leaves, case.clip_index, targets, torch.arange(3), sizes, 1, 0.25, 2.0),
    )


def test_compiles_without_a_break():
    case = make_case(2, 2, 3, 3, 4)
    targets = torch.rand(3, 2, 6, 8) > 0.5

    def loss(features, params, references):
        sums = kernels.dynamic_mask_loss(features, params, references, case.clip_index, targets)
        return (1 - (2 * sums.overlap + 1) / (sums.area + sums.target_area + 1)).sum()

    results = []
    for call in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = [t.float().requires_grad_() for t in case.tensors]
        call(*leaves).backward()
        results.append([t.grad for t in leaves])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.zeros(4, 2, 6, 6)}, "targets must be bool or uint8, got torch.float32"),
        (
            {"targets": torch.zeros(4, 2, 7, 6, dtype=torch.bool)},
            r"at most H, W = \(6, 6\) for mask_features \[1, 2, 8, 3, 3\].*got \[4, 2, 7, 6\]",
        ),
        (
            {"targets": torch.zeros(4, 3, 6, 6, dtype=torch.bool)},
            r"with T = 2 .*got \[4, 3, 6, 6\]",
        ),
        ({"targets": torch.zeros(3, 2, 6, 6, dtype=torch.bool)}, "M = N = 4"),
        ({"target_index": torch.zeros(3, dtype=torch.long)}, r"target_index must be \[N\] = \[4\]"),
        ({"target_stride": 0}, "target_stride must be at least 1"),
        ({"gamma": -1.0}, "gamma must not be negative"),
        ({"target_index": torch.tensor([0, 1, 2, 4])}, r"target_index must be in 0\.\.3 .*got 4"),
    ],
)
def test_bad_arguments_are_named(change, message):
    case = make_case(1, 2, 4, 3, 3)
    arguments = {"targets": torch.zeros(4, 2, 6, 6, dtype=torch.bool)} | change
    with pytest.raises(ValueError, match=message):
        kernels.dynamic_mask_loss(*case.tensors, case.clip_index, **arguments)
