"""Random problems for deformable attention, and one way to run every implementation on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

import kernels
from bench.suite.implementations import implementation
from bench.suite.tolerances import assert_near

Shapes = tuple[tuple[int, int], ...]

launch = import_module(f"{kernels.deformable_attention.__name__}.launch")
"""The launcher of the operators, whose package may go by `kernels` or `seqformer.kernels`."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Sizes and kind of a call; `tensors` fills them.

    Attributes:
        kind: 0 the drop-in operator; 2 the fused one with points, 4 with boxes.
        share: images in a row that share queries, references and padding (fused only).
        spread: deviation of the samples, in shares of the level.
        is_padded: whether each level has a valid region smaller than itself (fused only).
    """

    shapes: Shapes = ((5, 7), (3, 4), (1, 1))
    B: int = 2
    Q: int = 5
    M: int = 2
    D: int = 8
    P: int = 2
    kind: int = 2
    share: int = 1
    spread: float = 0.4
    is_padded: bool = False
    seed: int = 0

    def tensors(self) -> tuple[list[Tensor], Tensor | None, Tensor]:
        """Differentiable inputs in float64, the valid shapes, and a gradient of the output."""
        g = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        S, L, n = sum(h * w for h, w in self.shapes), len(self.shapes), self.B // self.share
        value = normal(self.B, S, self.M, self.D)
        logits = normal(n, self.Q, self.M, L, self.P)
        grad_output = normal(self.B, self.Q, self.M * self.D)
        noise = self.spread * normal(n, self.Q, self.M, L, self.P, 2)
        if self.kind == 0:
            locations = 0.5 + noise
            return (
                [value, locations, logits.flatten(3).softmax(-1).view_as(logits)],
                None,
                grad_output,
            )
        reference = torch.rand(n, self.Q, L, self.kind, generator=g, dtype=torch.float64)
        sizes = torch.tensor([[w, h] for h, w in self.shapes], dtype=torch.float64)
        offsets = noise * (sizes[:, None] if self.kind == 2 else 2 * self.P)
        valid = None
        if self.is_padded:
            cut = torch.randint(0, 3, (n, L, 2), generator=g)
            valid = (torch.tensor(self.shapes) - cut).clamp(min=0)
        return [value, offsets, logits, reference], valid, grad_output


def run(
    name: str,
    problem: Problem,
    tensors: list[Tensor],
    valid: Tensor | None,
    grad_output: Tensor,
    value_dtype: torch.dtype,
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    frozen: Sequence[int] = (),
    skipped: int = 0,
) -> dict[str, Tensor]:
    """Output and gradients of a problem by an implementation, on the CPU again.

    Args:
        tensors, valid, grad_output: as `Problem.tensors` gives them, or rounded.
        value_dtype: of value and output; dtype: of the other inputs.
        frozen: numbers of inputs that no gradient is asked of.
        skipped: elements between an aligned address and the first of each input.
    """
    leaves = [
        moved(t.detach().to(device, value_dtype if i == 0 else dtype), skipped).requires_grad_(
            i not in frozen
        )
        for i, t in enumerate(tensors)
    ]
    with implementation(name):
        if problem.kind == 0:
            output = kernels.ms_deform_attn(leaves[0], problem.shapes, *leaves[1:])
        else:
            valid = None if valid is None else valid.to(device)
            output = kernels.ms_deform_attn_fused(leaves[0], problem.shapes, *leaves[1:], valid)
        output.backward(moved(grad_output.to(device, value_dtype), skipped))
    names = ("grad_value", "grad_points", "grad_weights", "grad_reference")
    grads = dict(zip(names, (leaf.grad for leaf in leaves), strict=False))
    results = {"output": output} | {k: v for k, v in grads.items() if v is not None}
    return {k: v.detach().cpu() for k, v in results.items()}


def moved(tensor: Tensor, skipped: int) -> Tensor:
    """The same numbers, contiguous, so many elements behind an aligned address."""
    if not skipped:
        return tensor
    room = tensor.new_zeros(skipped + tensor.numel())
    return room[skipped:].view(tensor.shape).copy_(tensor)


def rounded(
    problem: Problem, value_dtype: torch.dtype, dtype: torch.dtype
) -> tuple[list[Tensor], Tensor | None, Tensor]:
    """The problem's tensors as float64 numbers that the dtypes can hold."""
    tensors, valid, grad_output = problem.tensors()
    tensors = [t.to(value_dtype if i == 0 else dtype).double() for i, t in enumerate(tensors)]
    return tensors, valid, grad_output.to(value_dtype).double()


_HAIR = 0.01
"""Cells to the border."""


def _typical(tensor: Tensor) -> float:
    """Root of the mean square; 0 of nothing."""
    return float(tensor.norm()) / max(tensor.numel(), 1) ** 0.5


def compare(
    name: str,
    problem: Problem,
    value_dtype: torch.dtype = torch.float32,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    **options: Any,
) -> None:
    """An implementation against the float64 reference on the same rounded inputs.

    The gradient of a logit is a difference, weight * (d weight - <grad, output>), of which nearly
    nothing is left where a row's samples see the same: its error is measured against the terms.
    So is that of a blend, or of a weight, whose samples all lie a hair inside the border: the
    distance to it, which is the whole result, is known to a share of the coordinate only.

    Args:
        options: of `run`, for the implementation.
    """
    inputs = rounded(problem, value_dtype, dtype)
    exact = run("reference", problem, *inputs, torch.float64, torch.float64)
    actual = run(name, problem, *inputs, value_dtype, dtype, device, **options)
    assert actual.keys() <= exact.keys() and "output" in actual
    assert len(actual) == len(exact) - len(options.get("frozen", ()))
    terms = (inputs[2] * exact["output"]).abs().unflatten(-1, (problem.M, -1)).sum(-1).norm()
    sampled = _typical(inputs[0][0]) * _typical(inputs[2]) * problem.D**0.5
    blended = {"output": inputs[0][0], "grad_value": inputs[2]}
    for key, tensor in actual.items():
        low = value_dtype if key in ("output", "grad_value") else dtype
        floor = 0.0
        if key == "grad_weights":
            hair = _HAIR * sampled * float(exact[key].count_nonzero()) ** 0.5
            floor = max(hair, float(terms)) if problem.kind else hair
        if key in blended:
            floor = _HAIR * _typical(blended[key]) * exact[key].count_nonzero() ** 0.5
        assert_near(tensor, exact[key], low, f"{key} of {name} on {problem}", floor)
