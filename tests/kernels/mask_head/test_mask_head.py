"""Dynamic mask head: golden case, published form, the CPU path, citizenship as an operator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import kernels
from bench.suite.implementations import CPU_PATHS, implementation
from bench.suite.problems.mask_head import OTHER_HEADS, make_case, run_head
from bench.suite.tolerances import assert_near
from kernels.mask_head.inputs import MaskHeadConfig, MaskHeadInputs
from kernels.mask_head.op import sizes_of
from tests.parity.weights import DATA

NAMES = ("logits", "grad_features", "grad_params", "grad_references")
SEQFORMER = MaskHeadConfig(8, 8, 3, True, 2, 8)


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
            out.append(padded_resize(z, 2)[0, 0])
    return torch.stack(out).view(N, T, 2 * h, 2 * w)


def padded_resize(z, factor):
    """Aligned upsampling of [1, 1, h, w] as published."""
    h, w = (factor * n for n in z.shape[-2:])
    z = F.pad(z, (0, 1, 0, 1), mode="replicate")
    z = F.interpolate(z, (h + 1, w + 1), mode="bilinear", align_corners=True)
    z = F.pad(z, (factor // 2, 0, factor // 2, 0), mode="replicate")
    return z[..., :h, :w]


@pytest.fixture(scope="module")
def golden():
    return {
        k: torch.from_numpy(v)
        for k, v in np.load(DATA / "parity" / "mask_head_case.npz").items()
        if k != "meta"
    }


@pytest.mark.parametrize("backend", ["reference", *CPU_PATHS])
def test_golden(golden, backend):
    names = ("features", "params", "reference_points")
    leaves = [golden[name].double().requires_grad_() for name in names]
    clip = torch.tensor([0] * 3 + [1] * 5)
    with implementation(backend):
        out = kernels.dynamic_mask_head(leaves[0][:, None], leaves[1], leaves[2][:, None], clip)
        out = out[:, 0]
        out.backward(golden["grad_output"].double())
    assert (out - golden["output"]).abs().max() <= 1e-5
    for leaf, name in zip(leaves, names, strict=True):
        assert_near(leaf.grad, golden[f"grad_{name}"].double(), torch.float32, name)


@settings(max_examples=20, deadline=None)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 3),
    N=st.integers(1, 4),
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    stride=st.sampled_from([1, 2, 4, 7, 8]),
    seed=st.integers(0, 2**16),
)
def test_equals_grouped_convolutions(B, T, N, h, w, stride, seed):
    case = make_case(B, T, N, h, w, seed, mask_stride=stride)
    expected = grouped_convolutions(*case.tensors, case.clip_index, stride)
    for call in (kernels.dynamic_mask_head, kernels.dynamic_mask_head_reference):
        actual = call(*case.tensors, case.clip_index, **case.options)
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 2)])
def test_upsampling_is_the_published_one(factor, size):
    z = torch.randn(1, 1, *size, dtype=torch.float64)
    actual = kernels.mask_head.reference.aligned_upsample(z, factor)
    torch.testing.assert_close(actual, padded_resize(z, factor))


@pytest.mark.parametrize("cpu", CPU_PATHS)
@settings(max_examples=30, deadline=None)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 4),
    N=st.integers(0, 6),
    h=st.integers(1, 7),
    w=st.integers(1, 7),
    relative=st.sampled_from([None, *OTHER_HEADS]),
    seed=st.integers(0, 2**16),
)
def test_cpu_paths_equal_reference(cpu, B, T, N, h, w, relative, seed):
    case = make_case(B, T, N, h, w, seed, **OTHER_HEADS.get(relative, {}))
    grad = torch.randn(case.out_shape(), dtype=torch.float64)
    expected = run_head("reference", case, grad)
    for name, actual, wanted in zip(NAMES, run_head(cpu, case, grad), expected, strict=True):
        assert_near(actual, wanted, torch.float64, name)


@pytest.mark.parametrize("cpu", CPU_PATHS)
@pytest.mark.parametrize(
    ("shape", "tile", "instances"),
    [((2, 5, 9, 13, 17), 1 << 8, 2), ((1, 3, 5, 30, 40), 1 << 12, 64), ((1, 1, 1000, 1, 1), 0, 0)],
    ids=["small blocks", "tiles within a frame", "a thousand instances"],
)
def test_blocks_of_the_cpu_paths_change_nothing(shape, tile, instances, cpu, monkeypatch):
    if tile:
        monkeypatch.setattr(kernels.mask_head.cpu, "_PIXELS", tile)
        monkeypatch.setattr(kernels.mask_head.cpu_torch, "_TILE", tile)
        monkeypatch.setattr(kernels.mask_head.cpu_torch, "_MAX_INSTANCES", instances)
    case = make_case(*shape)
    grad = torch.randn(case.out_shape(), dtype=torch.float64)
    expected = run_head("reference", case, grad)
    for name, actual, wanted in zip(NAMES, run_head(cpu, case, grad), expected, strict=True):
        assert_near(actual, wanted, torch.float64, name)


@pytest.mark.parametrize("cpu", CPU_PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_precision_of_features(dtype, cpu):
    case = make_case(2, 2, 5, 12, 16)
    grad = torch.randn(case.out_shape(), dtype=torch.float64)
    features, params, references = case.tensors
    rounded = features.to(dtype)
    case.tensors = (rounded.double(), params.float().double(), references.float().double())
    expected = run_head("reference", case, grad.to(dtype).double())
    leaves = [t.requires_grad_() for t in (rounded.clone(), params.float(), references.float())]
    with implementation(cpu):
        out = kernels.dynamic_mask_head(*leaves, case.clip_index)
        out.backward(grad.to(dtype))
    assert out.dtype == leaves[0].grad.dtype == dtype
    actual = [out.detach(), *(t.grad for t in leaves)]
    for name, tensor, wanted in zip(NAMES, actual, expected, strict=True):
        assert_near(tensor, wanted, dtype, name)


def test_gradcheck():
    case = make_case(2, 1, 2, 2, 2, seed=5)
    leaves = [t.requires_grad_() for t in case.tensors]
    assert torch.autograd.gradcheck(
        lambda f, p, r: kernels.dynamic_mask_head(f, p, r, case.clip_index), leaves
    )


@pytest.mark.parametrize("cpu", CPU_PATHS)
def test_unordered_clips_and_strided_tensors(cpu):
    case = make_case(3, 2, 6, 4, 5)
    case.clip_index = torch.tensor([2, 0, 2, 0, 2, 0], dtype=torch.int32)  # clip 1 is empty
    grad = torch.randn(case.out_shape(), dtype=torch.float64)
    expected = run_head("reference", case, grad)
    case.tensors = tuple(t.transpose(0, 1).contiguous().transpose(0, 1) for t in case.tensors)
    for name, actual, wanted in zip(NAMES, run_head(cpu, case, grad), expected, strict=True):
        assert_near(actual, wanted, torch.float64, name)


@pytest.mark.parametrize("backend", ["reference", "triton", *CPU_PATHS])
def test_no_instances_stay_attached_to_the_graph(backend):
    case = make_case(2, 3, 0, 4, 5)
    leaves = [t.float().requires_grad_() for t in case.tensors]
    with implementation(backend):
        out = kernels.dynamic_mask_head(*leaves, case.clip_index)
        assert out.shape == (0, 3, 8, 10)
        out.sum().backward()
    assert all(torch.equal(leaf.grad, torch.zeros_like(leaf)) for leaf in leaves)


@pytest.mark.parametrize("relative", [None, *OTHER_HEADS])
def test_map_of_several_blocks(relative):
    """More cells than a block of the C code, and not a multiple of its vectors."""
    case = make_case(1, 1, 2, 19, 23, **OTHER_HEADS.get(relative, {}))
    grad = torch.randn(case.out_shape(), dtype=torch.float64)
    expected = run_head("reference", case, grad)
    for dtype in (torch.float32, torch.float64):
        for name, actual, wanted in zip(
            NAMES, run_head("auto", case, grad, dtype), expected, strict=True
        ):
            assert_near(actual, wanted, dtype, name)


@pytest.mark.parametrize("cpu", CPU_PATHS)
def test_expanded_gradient(cpu):
    """As that of a sum: strides of 0."""
    case = make_case(1, 2, 3, 4, 5)
    grad = torch.tensor(0.5, dtype=torch.float64).expand(case.out_shape())
    expected = run_head("reference", case, grad)
    for name, actual, wanted in zip(NAMES, run_head(cpu, case, grad), expected, strict=True):
        assert_near(actual, wanted, torch.float64, name)


@pytest.mark.parametrize("cpu", CPU_PATHS)
def test_two_runs_agree_bit_for_bit(cpu):
    case = make_case(2, 3, 9, 20, 30)
    grad = torch.randn(case.out_shape())
    first, second = (run_head(cpu, case, grad, torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_threads_change_nothing():
    """Bit for bit, in parts of few instances."""
    case = make_case(2, 3, 9, 20, 30)
    grad = torch.randn(case.out_shape())
    threads, results = torch.get_num_threads(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels.mask_head.cpu, "_PIXELS", 2 * 40 * 60)
        for n in (1, 3):
            torch.set_num_threads(n)
            try:
                results.append(run_head("auto", case, grad, torch.float32))
            finally:
                torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.skipif(kernels.c_library._compiler() is None, reason="no C compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_c_code_is_taken(dtype):
    case = make_case(1, 1, 2, 3, 3)
    tensors = [t.to(dtype) for t in case.tensors]
    inputs = MaskHeadInputs(*tensors, case.clip_index)
    assert kernels.mask_head.cpu.network(inputs, SEQFORMER) is not None


def test_nan_in_features_stays_visible():
    features, params, references = (t.float() for t in make_case(1, 1, 2, 3, 3).tensors)
    features[0, 0, 0, 2, 2] = float("nan")
    clip = torch.zeros(2, dtype=torch.long)
    for backend in ("reference", "triton", *CPU_PATHS):
        with implementation(backend):
            out = kernels.dynamic_mask_head(features, params, references, clip)
        assert out[:, 0, 5, 5].isnan().all() and out[:, 0, 0, 0].isfinite().all(), backend


@pytest.mark.parametrize("place", ["features", "params", "grad"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_goes_where_it_goes_in_pytorch(place, value):
    results = []
    for cpu in CPU_PATHS:
        case = make_case(1, 2, 3, 5, 6)
        grad = torch.ones(case.out_shape())
        at = {"features": case.tensors[0][0, 0, 1], "params": case.tensors[1], "grad": grad[1, 0]}
        at[place][1, 3] = value
        results.append(run_head(cpu, case, grad, torch.float32))
    for name, actual, wanted in zip(NAMES, *results, strict=True):
        assert torch.equal(actual.isfinite(), wanted.isfinite()), name
        assert torch.equal(actual.isnan(), wanted.isnan()), name


def test_operator_is_well_behaved():
    case = make_case(2, 2, 3, 3, 4)
    leaves = [t.float().requires_grad_() for t in case.tensors]
    torch.library.opcheck(
        torch.ops.seqformer_kernels.dynamic_mask_head.default,
        (*leaves, case.clip_index, sizes_of(SEQFORMER)),
    )


def test_compiles_without_a_break_and_exports():
    case = make_case(2, 2, 3, 3, 4)
    tensors = [t.float() for t in case.tensors]

    def loss(features, params, references):
        masks = kernels.dynamic_mask_head(features, params, references, case.clip_index)
        return (masks * masks).mean()

    results = []
    for call in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = [t.clone().requires_grad_() for t in tensors]
        value = call(*leaves)
        value.backward()
        results.append([value.detach(), *(t.grad for t in leaves)])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)

    class Module(torch.nn.Module):
        def forward(self, features, params, references, clip):
            return kernels.dynamic_mask_head(features, params, references, clip)

    instances = torch.export.Dim("instances", min=2)
    exported = torch.export.export(
        Module(),
        (*tensors, case.clip_index),
        dynamic_shapes=(None, {0: instances}, {0: instances}, {0: instances}),
    )
    more = make_case(2, 2, 5, 3, 4, seed=3)
    arguments = (*(t.float() for t in more.tensors), more.clip_index)
    assert torch.equal(exported.module()(*arguments), kernels.dynamic_mask_head(*arguments))


def test_flops_are_counted():
    case = make_case(1, 2, 3, 4, 5)
    leaves = [t.float().requires_grad_() for t in case.tensors]
    with FlopCounterMode(display=False) as counter:
        kernels.dynamic_mask_head(*leaves, case.clip_index).sum().backward()
    cells = 3 * 2 * 4 * 5
    once = 2 * 152 * cells + 4 * 4 * cells
    assert counter.get_total_flops() == once + 3 * once


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (2, 7, 3, 3), r"mask_features must be \[B, T, C, h, w\], got shape \[2, 7, 3, 3\]"),
        (0, (1, 2, 7, 3, 3), r"mask_params must be \[N, 161\] .*161 = 8\*9 \+ 8\*8 \+ 1\*8"),
        (0, (1, 2, 8, 0, 3), "mask_features must hold frames, channels and cells"),
        (1, (4, 168), r"\[N, 169\] for mask_features \[1, 2, 8, 3, 3\] \(169 = 8\*10.*\[4, 168\]"),
        (2, (4, 3, 2), r"reference_points must be \[N, T, 2\] = \[4, 2, 2\], got \[4, 3, 2\]"),
        (3, (5,), r"clip_index must be \[N\] = \[4\]"),
    ],
)
def test_bad_shapes_are_named(index, shape, message):
    case = make_case(1, 2, 4, 3, 3)
    tensors = [*case.tensors, case.clip_index]
    tensors[index] = torch.zeros(shape, dtype=tensors[index].dtype)
    with pytest.raises(ValueError, match=message):
        kernels.dynamic_mask_head(*tensors)


@pytest.mark.parametrize("backend", ["auto", "reference", "triton"])
def test_bad_values_are_named(backend):
    case = make_case(2, 2, 4, 3, 3)
    features, params, references = (t.float() for t in case.tensors)
    wrong = references.clone()
    wrong[3, 1, 0] = float("inf")
    with implementation(backend):
        with pytest.raises(ValueError, match=r"clip_index must be in 0\.\.1 .*got 2"):
            kernels.dynamic_mask_head(features, params, references, torch.tensor([0, 1, 2, 0]))
        with pytest.raises(ValueError, match="reference_points of instance 3 are not finite"):
            kernels.dynamic_mask_head(features, params, wrong, case.clip_index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_width": 12}, r"hidden_width must be one of \[8, 16\], got 12"),
        ({"num_layers": 5}, r"num_layers must be one of \[2, 3, 4\], got 5"),
        ({"upsample": 3}, r"upsample must be one of \[1, 2, 4\], got 3"),
        ({"mask_stride": 0}, "mask_stride must be a positive number of pixels"),
        ({"relative_coordinates": False}, r"153 = 8\*8 \+ 8\*8 \+ 1\*8"),
    ],
)
def test_bad_options_are_named(options, message):
    case = make_case(1, 2, 4, 3, 3)
    with pytest.raises(ValueError, match=message):
        kernels.dynamic_mask_head(*case.tensors, case.clip_index, **options)


def test_bad_dtypes_are_named():
    features, params, references = make_case(1, 1, 1, 2, 2).tensors
    clip = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="mask_params must be a floating-point tensor"):
        kernels.dynamic_mask_head(features, params.long(), references, clip)
    with pytest.raises(ValueError, match="reference_points are missing"):
        kernels.dynamic_mask_head(features, params, None, clip)
    with (
        kernels.use_backend("triton"),
        pytest.raises(ValueError, match="float64 has no Triton kernel"),
    ):
        kernels.dynamic_mask_head(features, params, references, clip)
