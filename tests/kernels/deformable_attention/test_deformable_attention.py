"""Deformable attention: golden cases, every implementation against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import kernels
from bench.suite.implementations import CPU_PATHS, implementation
from bench.suite.problems.deformable_attention import Problem, compare, launch, rounded, run
from kernels.device import DeviceFacts, replaced
from tests.parity.weights import DATA

IMPLEMENTATIONS = ("triton", *CPU_PATHS)
SIZES = st.integers(1, 6)
PROBLEMS = st.builds(
    Problem,
    shapes=st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=3).map(tuple),
    B=st.integers(1, 2),
    Q=st.integers(0, 7),
    M=st.integers(1, 2),
    D=st.sampled_from([1, 3, 4, 7, 8, 12, 16]),
    P=st.integers(1, 3),
    kind=st.sampled_from([0, 2, 4]),
    is_padded=st.booleans(),
    seed=st.integers(0, 2**16),
    spread=st.sampled_from([0.1, 0.4, 3.0, 1e6]),
)
"""Small, since the interpreter takes milliseconds per sample."""

INSIDE_BY_A_HAIR = Problem(
    shapes=((6, 5), (1, 6), (3, 6)),
    B=1,
    Q=7,
    M=2,
    D=7,
    P=1,
    kind=4,
    spread=3.0,
    is_padded=True,
    seed=58462,
)
"""The three samples that count lie just inside the border."""


@pytest.mark.parametrize("name", ["reference", *IMPLEMENTATIONS])
@pytest.mark.parametrize("case", ["msda_case", "msda_case_odd"])
def test_golden(case, name):
    golden = {
        k: torch.from_numpy(v)
        for k, v in np.load(DATA / "parity" / f"{case}.npz").items()
        if k != "meta"
    }
    names = ("value", "sampling_locations", "attention_weights")
    dtype = torch.float32 if name == "triton" else torch.float64
    leaves = [golden[n].to(dtype).requires_grad_() for n in names]
    with implementation(name):
        output = kernels.ms_deform_attn(leaves[0], golden["spatial_shapes"], *leaves[1:])
        output.backward(golden["grad_output"].to(dtype))
    actual = {"output": output} | {f"grad_{n}": x.grad for n, x in zip(names, leaves, strict=True)}
    for key, tensor in actual.items():
        if dtype == torch.float64:
            torch.testing.assert_close(tensor, golden[key], rtol=0, atol=1e-10, msg=key)
        elif key != "grad_sampling_locations":  # float32 may fall on the other side of a kink
            assert (tensor - golden[key]).norm() <= 1e-5 * golden[key].norm(), key
        else:
            wrong = (tensor - golden[key]).abs() > 1e-4 * golden[key].abs().max()
            assert wrong.sum() <= 1e-4 * wrong.numel(), key


@settings(max_examples=25, deadline=None)
@given(problem=PROBLEMS)
def test_kernels_equal_reference(problem):
    compare("triton", problem)


@pytest.mark.parametrize("name", ["cpu", "cpu_torch"])
@settings(max_examples=50, deadline=None)
@given(problem=PROBLEMS)
@example(problem=INSIDE_BY_A_HAIR)
def test_cpu_paths_equal_reference(name, problem):
    compare(name, problem)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", [2, 4])
def test_images_share_queries_references_and_padding(name, kind):
    compare(name, Problem(B=6, share=3, M=1, kind=kind, is_padded=True))


@pytest.mark.parametrize("kind", [0, 2, 4])
@pytest.mark.parametrize("value_dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["triton", "cpu"])
@pytest.mark.parametrize("D", [5, 32])
def test_low_precision_keeps_its_inputs_exact(name, dtype, value_dtype, kind, D):
    """Half values, and coordinates of either precision: blended in float32 from what was given."""
    compare(name, Problem(kind=kind, D=D, seed=3, is_padded=kind > 0), value_dtype, dtype)


@pytest.mark.parametrize("kind", [0, 2, 4])
@pytest.mark.parametrize("name", ["triton", "cpu"])
@pytest.mark.parametrize("D", [64, 96, 256])
def test_many_channels(name, kind, D):
    compare(name, Problem(B=1, Q=3, M=1, D=D, kind=kind))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("D", [1, 4, 8, 16, 20, 31, 48, 55])
def test_channels_that_fill_registers_in_part(D, dtype):
    """Full groups of registers, single ones and channels that are left, in every combination."""
    compare("cpu", Problem(D=D, is_padded=True), dtype, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [0, 2, 4])
def test_sizes_of_the_small_model(kind, dtype):
    """The C code knows 12 samples of 16 channels by heart."""
    shapes = ((4, 6), (2, 3), (1, 2))
    compare("cpu", Problem(shapes=shapes, P=4, D=16, kind=kind), dtype, dtype)


@pytest.mark.parametrize("kind", [0, 2])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_many_levels_and_points(name, kind):
    shapes = ((4, 6), (2, 3), (1, 2), (1, 1), (2, 1), (1, 3))
    compare(name, Problem(shapes=shapes, P=9, D=4, kind=kind))


@pytest.mark.parametrize("kind", [0, pytest.param(2, marks=pytest.mark.slow), 4])
def test_several_programs_per_slice(kind, monkeypatch):
    """Programs of one warp: the queries of an image fall into blocks, the last one incomplete."""
    monkeypatch.setattr(launch.tiles, "INTERPRETER_WARPS", 1)
    compare("triton", Problem(Q=37, D=32, kind=kind, share=1 + (kind > 0), is_padded=kind > 0))


@pytest.mark.parametrize("capability", [70, 80, 90])
def test_layout_of_every_table_entry(capability):
    facts = DeviceFacts()
    facts.capability = lambda device: capability
    with replaced(facts):
        compare("triton", Problem(D=32, kind=4))
        compare("triton", Problem(D=24, kind=2))


@pytest.mark.parametrize("name", ["triton", "cpu"])
def test_large_offsets_arithmetic(name, monkeypatch):
    """The 64-bit branch of the kernels on a small problem."""
    original = launch._levels
    monkeypatch.setattr(launch, "_levels", lambda shapes, _: original(shapes, 2**31))
    compare(name, Problem(D=8, kind=2))


@pytest.mark.parametrize("name", ["reference", *IMPLEMENTATIONS])
def test_pixel_centres_borders_and_outside_by_hand(name):
    # one level of 2 x 2 with values 1 2 / 3 4
    value = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    points = {
        (0.25, 0.25): 1.0,  # centre of the first cell
        (0.75, 0.75): 4.0,
        (0.5, 0.5): 2.5,  # all four, a quarter each
        (0.0, 0.25): 0.5,  # on the border: half a cell lies outside, which reads zero
        (0.0, 0.0): 0.25,
        (1.0, 1.0): 1.0,
        (-0.25, 0.25): 0.0,  # the last point that is zero
        (1.25, 0.25): 0.0,
        (1e9, 0.5): 0.0,
    }
    if name != "reference":  # grid_sample makes NaN of it
        points[(-1e30, float("inf"))] = 0.0
    locations = torch.tensor(list(points)).view(1, -1, 1, 1, 1, 2)
    weights = torch.ones(1, len(points), 1, 1, 1)
    with implementation(name):
        out = kernels.ms_deform_attn(value, [(2, 2)], locations, weights)
    assert out.flatten().tolist() == list(points.values())


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("width", [1, 2, 4])  # exact in binary
def test_gradients_exactly_on_pixels(name, width):
    """On a kink the derivative is that of the interval to the right, as the public operator's."""
    shapes = ((2, width),)
    cells = torch.arange(-2, width + 2, dtype=torch.float64)
    x = (cells + 0.5) / width
    points = torch.stack([x, torch.full_like(x, 0.6)], -1).view(1, -1, 1, 1, 1, 2)
    value = torch.randn(1, 2 * width, 1, 4, dtype=torch.float64)
    tensors = [value, points, torch.ones(points.shape[:-1], dtype=torch.float64)]
    grad = torch.randn(1, points.shape[1], 4, dtype=torch.float64)
    problem = Problem(shapes=shapes, kind=0)
    exact = run("reference", problem, tensors, None, grad, torch.float64, torch.float64)
    actual = run(name, problem, tensors, None, grad, torch.float32, torch.float64)
    for key, tensor in exact.items():
        torch.testing.assert_close(actual[key].double(), tensor, rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", ["triton", "cpu"])
@pytest.mark.parametrize("kind", [0, 2, 4])
def test_nothing_is_read_or_written_outside(name, kind):
    """Inputs lie between NaN, outputs start as NaN: neither shows, however far samples are."""
    problem = Problem(kind=kind, spread=30.0, Q=9, is_padded=kind > 0)
    tensors, valid, grad_output = rounded(problem, torch.float32, torch.float32)
    exact = run("reference", problem, tensors, valid, grad_output, torch.float64, torch.float64)

    def fenced(t: torch.Tensor) -> torch.Tensor:
        fence = torch.full((1, *t.shape[1:]), float("nan"), dtype=torch.float32)
        return torch.cat([fence, t.float(), fence])[1:-1]

    leaves = [fenced(t).requires_grad_() for t in tensors]
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        with implementation(name):
            if kind:
                output = kernels.ms_deform_attn_fused(leaves[0], problem.shapes, *leaves[1:], valid)
            else:
                output = kernels.ms_deform_attn(leaves[0], problem.shapes, *leaves[1:])
            grads = torch.autograd.grad(output, leaves, fenced(grad_output))
    finally:
        torch.use_deterministic_algorithms(False)
    for actual, (key, expected) in zip((output, *grads), exact.items(), strict=True):
        assert (actual - expected).norm() <= 1e-5 * expected.norm() + 1e-6, key


@pytest.mark.parametrize("kind", [0, 2])
def test_fixed_point_gradients_equal_the_others(kind):
    problem = Problem(kind=kind, Q=20, D=32)
    torch.use_deterministic_algorithms(True)
    try:
        compare("triton", problem)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_fixed_point_scale_follows_the_gradient(scale):
    problem = Problem(kind=2)
    tensors, _, grad_output = problem.tensors()
    inputs = (tensors, None, scale * grad_output, torch.float32, torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        actual = run("triton", problem, *inputs)["grad_value"].double()
    finally:
        torch.use_deterministic_algorithms(False)
    exact = run("reference", problem, *inputs[:3], torch.float64, torch.float64)["grad_value"]
    assert (actual - exact).norm() <= 1e-5 * exact.norm()


def test_gradients_that_are_not_finite_stay_so_in_fixed_point():
    problem = Problem(kind=2)
    tensors, _, grad_output = problem.tensors()
    grad_output[0, 0, 0] = float("inf")
    torch.use_deterministic_algorithms(True)
    try:
        grads = run("triton", problem, tensors, None, grad_output, torch.float32, torch.float32)
    finally:
        torch.use_deterministic_algorithms(False)
    assert grads["grad_value"].isnan().any()


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 3), ()])
def test_only_the_gradients_asked_for(name, wanted):
    problem = Problem(kind=4, share=2)
    tensors, _, grad_output = problem.tensors()
    exact = run("reference", problem, tensors, None, grad_output, torch.float64, torch.float64)
    leaves = [t.float().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
    with implementation(name):
        output = kernels.ms_deform_attn_fused(leaves[0], problem.shapes, *leaves[1:])
        assert output.requires_grad == bool(wanted)
        if wanted:
            output.backward(grad_output.float())
    names = ("grad_value", "grad_points", "grad_weights", "grad_reference")
    for i, (leaf, key) in enumerate(zip(leaves, names, strict=True)):
        assert (leaf.grad is not None) == (i in wanted)
        if i in wanted:
            assert (leaf.grad - exact[key]).norm() <= 1e-5 * exact[key].norm()


@pytest.mark.parametrize("name", ["reference", "cpu", "cpu_torch"])
@pytest.mark.parametrize("kind", [0, 2, 4])
def test_gradcheck_off_the_kinks(name, kind):
    shapes = ((4, 5), (2, 3))
    problem = Problem(shapes=shapes, Q=3, D=3, kind=kind, seed=3)
    tensors, _, _ = problem.tensors()
    if kind == 0:
        # keep every sample at least 0.05 cells away from the lines where bilinear weights bend
        sizes = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float64)[:, None]
        cells = tensors[1] * sizes - 0.5
        cells = cells.floor() + (cells - cells.floor()).clamp(0.05, 0.95)
        tensors[1] = (cells + 0.5) / sizes
    call = kernels.ms_deform_attn_fused if kind else kernels.ms_deform_attn
    with implementation(name):
        assert torch.autograd.gradcheck(
            lambda value, *rest: call(value, shapes, *rest),
            [t.requires_grad_() for t in tensors],
        )


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", [0, 2])
def test_non_contiguous_inputs(name, kind):
    problem = Problem(kind=kind, share=1, B=3)
    tensors, _, grad_output = rounded(problem, torch.float32, torch.float32)
    exact = run("reference", problem, tensors, None, grad_output, torch.float64, torch.float64)
    strided = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in tensors]
    grad_output = grad_output.transpose(1, 2).contiguous().transpose(1, 2)
    assert not any(t.is_contiguous() for t in (*strided, grad_output))
    actual = run(name, problem, strided, None, grad_output, torch.float32, torch.float32)
    for key, tensor in actual.items():
        assert (tensor - exact[key]).norm() <= 1e-5 * exact[key].norm(), key


@pytest.mark.parametrize("name", ["cpu", "cpu_torch"])
def test_two_runs_and_thread_counts_agree_bit_for_bit(name):
    problem = Problem(shapes=((12, 20), (6, 10)), B=3, Q=300, M=4, D=16, P=4, kind=2)
    inputs = (*problem.tensors(), torch.float32, torch.float32)
    first = run(name, problem, *inputs)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 if threads == 1 else 1)
        second = run(name, problem, *inputs)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["reference", *IMPLEMENTATIONS])
@pytest.mark.parametrize("empty", ["B", "Q", "P", "D"])
def test_empty_inputs_give_empty_results_with_gradients(name, empty):
    sizes = {"B": 2, "Q": 5, "P": 2, "D": 8} | {empty: 0}
    problem = Problem(kind=0, **sizes)
    tensors, _, grad_output = problem.tensors()
    found = run(name, problem, tensors, None, grad_output, torch.float32, torch.float32)
    assert list(found["output"].shape) == [sizes["B"], sizes["Q"], 2 * sizes["D"]]
    assert not found["output"].any()
    for key, tensor in zip(("grad_value", "grad_points", "grad_weights"), tensors, strict=True):
        assert found[key].shape == tensor.shape and not found[key].any()
