"""Deformable attention as a citizen of torch, and what it says to bad input."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import kernels
from bench.suite.implementations import implementation
from bench.suite.problems.deformable_attention import Problem, launch

SHAPES = ((5, 7), (3, 4))


def float32(problem: Problem) -> list[torch.Tensor]:
    return [t.float() for t in problem.tensors()[0]]


def op_arguments(kind: int, is_padded: bool) -> tuple:
    problem = Problem(shapes=SHAPES, kind=kind, is_padded=is_padded)
    tensors, valid, _ = problem.tensors()
    value, points, weights, *reference = (t.float().requires_grad_() for t in tensors)
    valid = None if valid is None else valid.to(torch.int32)
    flat = [n for pair in SHAPES for n in pair]
    return value, points, weights, reference[0] if reference else None, valid, flat


@pytest.mark.parametrize(
    ("name", "kind", "is_padded"),
    [("cpu", 0, False), ("cpu", 2, True), ("cpu", 4, False), ("triton", 2, True)],
)
def test_opcheck(name, kind, is_padded):
    with implementation(name):
        arguments = op_arguments(kind, is_padded)
        torch.library.opcheck(torch.ops.seqformer_kernels.ms_deform_attn, arguments)
        detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
        grad_output = torch.randn(2, 5, 16)
        for needs in ([True, True, kind > 0], [False, True, False], [True, False, False]):
            torch.library.opcheck(
                torch.ops.seqformer_kernels.ms_deform_attn_backward,
                (grad_output, *detached, needs),
            )


class Attention(torch.nn.Module):
    def forward(self, value, offsets, logits, reference):
        fused = kernels.ms_deform_attn_fused(value, SHAPES, offsets, logits, reference)
        locations = reference[:, :, None, :, None] + 0.1 * offsets
        weights = logits.flatten(3).softmax(-1).view_as(logits)
        return fused.relu() + kernels.ms_deform_attn(value, SHAPES, locations, weights)


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_compiles_without_a_graph_break(name):
    """Other batch sizes too, without compiling for each."""
    module = Attention()
    with implementation(name):
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
        for B, Q in ((2, 5), (3, 4)):
            leaves = [t.requires_grad_() for t in float32(Problem(shapes=SHAPES, B=B, Q=Q))]
            results = []
            for f in (module, compiled):
                out = f(*leaves)
                results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
            for expected, actual in zip(*results, strict=True):
                torch.testing.assert_close(actual, expected)


def test_switching_the_backend_reaches_compiled_code():
    compiled = torch.compile(Attention(), fullgraph=True, backend="aot_eager")
    leaves = float32(Problem(shapes=SHAPES))
    first = compiled(*leaves)
    with kernels.use_backend("triton"), pytest.MonkeyPatch.context() as patch:
        seen = []
        original = launch.forward
        patch.setattr(launch, "forward", lambda *a: seen.append(1) or original(*a))
        torch.testing.assert_close(compiled(*leaves), first)
        assert len(seen) == 2


def test_exports():
    leaves = float32(Problem(shapes=SHAPES))
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        Attention(), tuple(leaves), dynamic_shapes=[{0: batch}] * 4, strict=True
    )
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("seqformer_kernels.ms_deform_attn.default") == 2
    other = float32(Problem(shapes=SHAPES, B=3, seed=1))
    torch.testing.assert_close(program.module()(*other), Attention()(*other))


def test_flops_are_counted_both_ways():
    problem = Problem(shapes=SHAPES)
    leaves = [t.requires_grad_() for t in float32(problem)]
    with FlopCounterMode(display=False) as counter:
        output = kernels.ms_deform_attn_fused(leaves[0], SHAPES, *leaves[1:])
        forward = counter.get_total_flops()
        output.sum().backward()
    samples = 2 * 5 * 2 * 2 * 2  # B Q M L P
    assert forward == samples * (2 * 4 * 8 + 30)
    assert counter.get_total_flops() - forward == samples * (4 * 4 * 8 + 60)


def test_autocast_leaves_coordinates_alone():
    problem = Problem(shapes=((40, 60),), B=1, Q=30, kind=2)
    leaves = float32(problem)
    plain = kernels.ms_deform_attn_fused(leaves[0], problem.shapes, *leaves[1:])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = kernels.ms_deform_attn_fused(leaves[0], problem.shapes, *leaves[1:])
    assert torch.equal(plain, inside)


def test_second_derivatives_are_refused():
    leaves = [t.requires_grad_() for t in float32(Problem())]
    output = kernels.ms_deform_attn_fused(leaves[0], Problem().shapes, *leaves[1:])
    (grad,) = torch.autograd.grad(output.square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()


def test_shapes_may_be_a_tensor():
    value, locations, weights = float32(Problem(shapes=SHAPES, kind=0))
    as_list = kernels.ms_deform_attn(value, SHAPES, locations, weights)
    as_tensor = kernels.ms_deform_attn(value, torch.tensor(SHAPES), locations, weights)
    assert torch.equal(as_list, as_tensor)


GOOD = {
    "value": (2, 12, 2, 6),
    "offsets": (2, 5, 2, 1, 2, 2),
    "logits": (2, 5, 2, 1, 2),
    "reference_points": (2, 5, 1, 2),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": (2, 12, 2)}, r"value must be \[B, S, M, D\], got shape \[2, 12, 2\]"),
        (
            {"value": (2, 11, 2, 6)},
            r"hold 12 tokens but value has S = 11: got value \[2, 11",
        ),
        (
            {"offsets": (2, 5, 2, 2, 2, 2)},
            r"offsets do not fit value .* expected .* \[2, 5, 2, 1, 2, 2\]",
        ),
        (
            {"logits": (2, 5, 2, 1, 3)},
            r"logits do not fit offsets .* expected .* \[2, 5, 2, 1, 2\]",
        ),
        ({"reference_points": (2, 5, 1, 3)}, r"reference_points do not fit offsets"),
        ({"reference_points": (2, 4, 1, 2)}, r"reference_points do not fit offsets"),
        ({"offsets": (3, 5, 2, 1, 2, 2), "logits": (3, 5, 2, 1, 2)}, "offsets has 3 images"),
    ],
)
@pytest.mark.parametrize("name", ["cpu", "triton", "reference"])
def test_bad_shapes_are_named(name, change, message):
    tensors = [torch.zeros(s) for s in (GOOD | change).values()]
    with implementation(name), pytest.raises(ValueError, match=message):
        kernels.ms_deform_attn_fused(tensors[0], [(3, 4)], *tensors[1:])


def test_bad_valid_shapes_are_named():
    value, *rest = [torch.zeros(s) for s in GOOD.values()]
    for valid, message in (
        (torch.ones(2, 2, 2, dtype=torch.int32), r"valid_shapes must be \[B, L, 2\] = \[2, 1, 2\]"),
        (torch.ones(2, 1, 2), "valid_shapes must be integers"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.ms_deform_attn_fused(value, [(3, 4)], *rest, valid)


def test_other_bad_input():
    value, locations, weights = float32(Problem(shapes=((1, 1),), kind=0))
    with pytest.raises(ValueError, match="value must be a floating-point tensor"):
        kernels.ms_deform_attn(value.long(), [(1, 1)], locations, weights)
    with pytest.raises(ValueError, match=r"positive \(height, width\) pairs"):
        kernels.ms_deform_attn(value, [(0, 1)], locations, weights)
    with pytest.raises(ValueError, match="sampling_locations is on meta but value is on cpu"):
        kernels.ms_deform_attn(value, [(1, 1)], locations.to("meta"), weights)
    with pytest.raises(ValueError, match="sampling_locations must have B = 2 images"):
        kernels.ms_deform_attn(value, [(1, 1)], locations[:1], weights[:1])
    with (
        pytest.raises(ValueError, match="backend 'cuda' is unknown"),
        kernels.use_backend("cuda"),
    ):
        pass
    assert kernels.current_backend() == "auto"


def in_a_new_process(code: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True
    )


def test_environment_chooses_the_backend_of_a_process():
    code = "import kernels; print(kernels.current_backend())"
    done = in_a_new_process(code, SEQFORMER_KERNELS_BACKEND="reference")
    assert done.stdout.strip() == "reference"
    done = in_a_new_process(code, SEQFORMER_KERNELS_BACKEND="fast")
    assert "SEQFORMER_KERNELS_BACKEND: backend 'fast' is unknown" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, Triton answers")
def test_triton_on_a_cpu_is_refused_outside_the_interpreter():
    code = (
        "import torch, kernels\n"
        "v, x = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 1, 1, 2)\n"
        "with kernels.use_backend('triton'):\n"
        "    kernels.ms_deform_attn(v, [(1, 1)], x, x[..., 0])\n"
    )
    done = in_a_new_process(code)
    assert "backend 'triton' was asked for but the tensors are on cpu" in done.stderr


def test_a_failing_kernel_is_an_error(monkeypatch):
    def broken(*args):
        raise RuntimeError("no registers left")

    monkeypatch.setattr(launch, "forward", broken)
    leaves = float32(Problem())
    with kernels.use_backend("triton"), pytest.raises(RuntimeError, match="no registers left"):
        kernels.ms_deform_attn_fused(leaves[0], Problem().shapes, *leaves[1:])
