"""The mask head's Triton kernels, interpreted where there is no GPU, against float64."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from bench.suite.problems.mask_head import OTHER_HEADS, make_case, run_head, run_loss
from bench.suite.tolerances import assert_near
from kernels.mask_head import launch, tiles
from kernels.mask_head.inputs import MaskHeadConfig, MaskHeadInputs
from tests.parity.weights import DATA

NAMES = ("result", "grad_features", "grad_params", "grad_references")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """Fresh memory holds NaN, so that what no program writes is noticed."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill


def check_head(case, dtype=torch.float32):
    grad = torch.randn(case.out_shape(), dtype=torch.float64)
    case.tensors = tuple(t.to(dtype).double() for t in case.tensors)
    grad = grad.to(dtype).double()
    expected = run_head("reference", case, grad)
    actual = run_head("triton", case, grad, dtype)
    for name, tensor, wanted in zip(NAMES, actual, expected, strict=True):
        assert tensor.dtype == dtype
        assert_near(tensor, wanted, dtype, name)


def test_golden(monkeypatch):
    """Two of the instances, with wide programs, which are interpreted as fast as narrow ones."""
    wide = tiles.LaunchConfig(num_warps=8, cells=4)
    monkeypatch.setattr(tiles, "FORWARD", {70: wide})
    wide = tiles.BackwardConfig(num_warps=8, parameter_cells=4, feature_cells=4)
    monkeypatch.setattr(tiles, "BACKWARD", {70: wide})
    golden = np.load(DATA / "parity" / "mask_head_case.npz")
    chosen = [0, 7]  # of the first and of the second clip
    features = torch.from_numpy(golden["features"])[:, None]
    params = torch.from_numpy(golden["params"])[chosen].requires_grad_()
    references = torch.from_numpy(golden["reference_points"])[chosen, None].requires_grad_()
    with kernels.use_backend("triton"):
        out = kernels.dynamic_mask_head(features, params, references, torch.tensor([0, 1]))
        out.backward(torch.from_numpy(golden["grad_output"])[chosen, None])
    for actual, name in (
        (out.detach()[:, 0], "output"),
        (params.grad, "grad_params"),
        (references.grad[:, 0], "grad_reference_points"),
    ):
        assert_near(actual, torch.from_numpy(golden[name])[chosen].double(), torch.float32, name)


@settings(max_examples=4, deadline=None)
@given(
    B=st.integers(1, 2),
    T=st.integers(1, 2),
    N=st.integers(0, 2),
    h=st.integers(1, 6),
    w=st.integers(1, 7),
    seed=st.integers(0, 2**16),
)
def test_any_shape(B, T, N, h, w, seed):
    check_head(make_case(B, T, N, h, w, seed))


@pytest.mark.parametrize("relative", OTHER_HEADS)
def test_relatives(relative):
    check_head(make_case(1, 1, 1, 3, 5, seed=1, **OTHER_HEADS[relative]))


def test_layers_summed_apart(monkeypatch):
    """Where registers do not hold the sums of all layers."""
    tile = tiles.BackwardConfig(num_warps=1, parameter_cells=2, feature_cells=1, max_sums=100)
    monkeypatch.setattr(tiles, "BACKWARD", {70: tile})
    check_head(make_case(1, 1, 1, 3, 5, seed=7))


@pytest.mark.parametrize("channels", [1, 3, 7, 12])
def test_channels_that_are_no_power_of_two(channels):
    check_head(make_case(1, 1, 1, 2, 3, seed=8, channels=channels, num_layers=2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(dtype):
    check_head(make_case(1, 1, 1, 4, 3, seed=2), dtype)


def test_long_strips_and_several_programs(monkeypatch):
    """What only large inputs have: strips of many rows, sums over many blocks, several programs."""
    monkeypatch.setattr(tiles, "ENOUGH_LANES", 1)
    monkeypatch.setattr(tiles, "ENOUGH_PROGRAMS", 2)
    check_head(make_case(1, 1, 1, 17, 13, seed=3, num_layers=2))


def test_one_cell_many_instances():
    check_head(make_case(1, 1, 12, 1, 1, seed=4, num_layers=2))


@pytest.mark.slow
def test_one_cell_a_thousand_instances():
    """As many as no model has, of the smallest head; minutes, interpreted."""
    small = {"channels": 1, "num_layers": 2, "relative_coordinates": False, "upsample": 1}
    check_head(make_case(1, 1, 1000, 1, 1, seed=5, **small))


def test_many_instances_in_many_frames():
    """64 frames of instances."""
    small = {"channels": 1, "num_layers": 2, "upsample": 1}
    check_head(make_case(2, 8, 8, 1, 1, seed=6, **small))


def test_launches_are_few(monkeypatch):
    """One forward, two backward; three for the backward of the losses."""
    launches = []
    run = kernels.launch.Launch.run

    def counted(launch, *arguments):
        launches.append(launch.variant.kernel)
        run(launch, *arguments)

    monkeypatch.setattr(kernels.launch.Launch, "run", counted)
    case = make_case(1, 1, 1, 2, 3, num_layers=2)
    leaves = [t.float().requires_grad_() for t in case.tensors]
    with kernels.use_backend("triton"):
        out = kernels.dynamic_mask_head(*leaves, case.clip_index, num_layers=2)
        assert len(launches) == 1
        out.sum().backward()
        assert len(launches) == 3
        targets = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
        sums = kernels.dynamic_mask_loss(*leaves, case.clip_index, targets, num_layers=2)
        assert len(launches) == 4
        sums.focal.sum().backward()
        assert len(launches) == 7


def test_gradients_that_nobody_wants_are_not_computed(monkeypatch):
    programs = Counter()
    monkeypatch.setattr(
        kernels.launch.Launch,
        "run",
        lambda launch, number, *_: programs.update({launch.variant.kernel.__name__: number}),
    )
    case = make_case(1, 1, 2, 3, 3)
    features, params, references = (t.float() for t in case.tensors)
    inputs = MaskHeadInputs(features, params, references, case.clip_index)
    arguments = (torch.zeros(2, 1, 6, 6), inputs)
    head = MaskHeadConfig()
    only_params = launch.backward(*arguments, head, [False, True])
    assert only_params[0] is None
    assert programs == {"gradient_kernel": 2, "sum_kernel": 2}  # one each per instance
    programs.clear()
    only_features = launch.backward(*arguments, head, [True, False])
    assert only_features[1] is None and +programs == {"gradient_kernel": 1}


@settings(max_examples=3, deadline=None)
@given(
    N=st.integers(1, 2),
    h=st.integers(1, 4),
    w=st.integers(1, 5),
    target_stride=st.sampled_from([1, 4]),
    seed=st.integers(0, 2**16),
)
def test_losses_of_any_shape(N, h, w, target_stride, seed):
    case = make_case(2, 1, N, h, w, seed)
    check_loss(case, target_stride, seed)


@pytest.mark.parametrize(
    ("options", "gamma"),
    [({"upsample": 1}, 0.0), ({"upsample": 4, "num_layers": 2}, 1.5), ({"upsample": 1}, 1.0)],
)
def test_losses_of_relatives(options, gamma):
    check_loss(make_case(1, 1, 1, 3, 4, seed=7, **options), 2, 0, gamma=gamma)


def check_loss(case, target_stride, seed, **options):
    g = torch.Generator().manual_seed(seed)
    _, T, height, width = case.out_shape()
    cut = int(target_stride > 1)
    size = (2, T, target_stride * height - cut, target_stride * width - cut)
    targets = torch.rand(size, generator=g) > 0.5
    options |= {
        "target_stride": target_stride,
        "target_index": torch.randint(2, (len(case.clip_index),), generator=g),
    }
    grad = torch.randn(len(case.clip_index), 4, generator=g, dtype=torch.float64)
    case.tensors = tuple(t.float().double() for t in case.tensors)
    expected = run_loss("reference", case, targets, grad, **options)
    actual = run_loss("triton", case, targets, grad, torch.float32, **options)
    for name, tensor, wanted in zip(NAMES, actual, expected, strict=True):
        assert_near(tensor, wanted, torch.float32, name)
