"""CPU path of deformable attention: C code where there is a compiler, plain PyTorch where not.

Both take raw inputs, compute in float32 (float64 for float64 values), are deterministic, and give
the same bits for any number of threads. The C code reads bfloat16 values, points and weights where
they are. Arguments as in `op.py`; letters as in `__init__.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..c_library import library, why_not
from ..jobs import run
from ..launch import sum_of_shared
from . import cpu_torch

Shapes = tuple[tuple[int, int], ...]

MAX_SAMPLES = 1024
"""Samples of a row, L*P, that the C code has room for."""
JOBS_PER_THREAD = 4
"""Finer than one, since other programs take turns on the cores."""


def forward(
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: Shapes,
) -> Tensor:
    """[B, Q, M*D] in value's dtype."""
    inputs = _Inputs(value, points, weights, reference, valid, shapes)
    B, _, M, D = value.shape
    Q = points.shape[1]
    is_empty = not (B * Q * M * D and points.shape[4])
    if is_empty:
        output = inputs.value.new_zeros(B, Q, M * D)
    elif inputs.library is None:
        output = _torch_forward(inputs)
    else:
        output = inputs.value.new_empty(B, Q, M * D)
        arguments = inputs.arguments(output=output)
        # Queries of an image are independent: cut them as finely as there are threads.
        cuts = _cuts(Q, -(-JOBS_PER_THREAD * torch.get_num_threads() // B))
        jobs = [_Job(b, b + 1, q0, q1, 0, M) for b in range(B) for q0, q1 in cuts]
        run(inputs.library, "forward", arguments, (_Job * len(jobs))(*jobs))
    return output.to(value.dtype)


def backward(
    grad_output: Tensor,
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    valid: Tensor | None,
    shapes: Shapes,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of value, points, weights and reference, in their shapes and dtypes.

    Args:
        needs: whether those of value, of points and weights, and of reference are asked for; the
            others are None.
    """
    inputs = _Inputs(value, points, weights, reference, valid, shapes)
    needs_value, needs_samples, needs_reference = needs
    B, _, M, _ = value.shape
    _, Q, _, L, P, _ = points.shape
    new = partial(inputs.value.new_zeros, dtype=inputs.dtype)
    grad_value = new(value.shape) if needs_value else None
    grad_points = grad_weights = grad_reference = None
    if needs_samples or needs_reference:
        grad_points, grad_weights = new(B, Q, M, L, P, 2), new(B, Q, M, L, P)
    if needs_reference and reference is not None:
        grad_reference = new(B, Q, M, L, reference.shape[-1])
    if grad_output.numel() and P:
        grad_output = grad_output.to(inputs.dtype).contiguous()
        if inputs.library is None:
            grads = _torch_backward(inputs, grad_output, needs)
            grad_value, grad_points, grad_weights, grad_reference = grads
        else:
            arguments = inputs.arguments(
                grad_output=grad_output,
                grad_value=grad_value,
                grad_points=grad_points,
                grad_weights=grad_weights,
                grad_reference=grad_reference,
            )
            # A job owns an (image, head) slice of grad_value.
            cuts = _cuts(M, -(-JOBS_PER_THREAD * torch.get_num_threads() // B))
            jobs = [_Job(b, b + 1, 0, Q, m0, m1) for b in range(B) for m0, m1 in cuts]
            run(inputs.library, "backward", arguments, (_Job * len(jobs))(*jobs))
    if grad_reference is not None:
        grad_reference = grad_reference.sum(2)
    return (
        None if grad_value is None else grad_value.to(value.dtype),
        _asked_for(needs_samples, grad_points, points),
        _asked_for(needs_samples, grad_weights, weights),
        _asked_for(needs_reference, grad_reference, reference),
    )


def _asked_for(needs: bool, grad: Tensor | None, like: Tensor | None) -> Tensor | None:
    return sum_of_shared(grad, like) if needs and grad is not None and like is not None else None


def compiled_for(value: Tensor, points: Tensor) -> ctypes.CDLL | None:
    """The C code, unless it cannot be compiled or a row has too many samples."""
    if points.shape[3] * points.shape[4] > MAX_SAMPLES:
        return None
    return library("deformable_attention", _library_dtype(value))


def why_not_compiled(value: Tensor, points: Tensor, *_: Tensor) -> str | None:
    """Why `compiled_for` gives none; None where it gives one."""
    if compiled_for(value, points) is not None:
        return None
    samples = points.shape[3] * points.shape[4]
    if samples > MAX_SAMPLES:
        return f"L * P = {samples} samples of a query are more than {MAX_SAMPLES}"
    return why_not("deformable_attention", _library_dtype(value))


def _library_dtype(value: Tensor) -> torch.dtype:
    return value.dtype if value.dtype == torch.bfloat16 else _compute_dtype(value)


def _compute_dtype(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


class _Inputs:
    """The inputs contiguous, in one dtype; those in bfloat16 stay so for the C code.

    Attributes:
        library: `compiled_for` them.
        dtype: that is computed in.
    """

    def __init__(
        self,
        value: Tensor,
        points: Tensor,
        weights: Tensor,
        reference: Tensor | None,
        valid: Tensor | None,
        shapes: Shapes,
    ) -> None:
        self.library = compiled_for(value, points)
        self.dtype = _compute_dtype(value)
        self.shapes = shapes
        may_be_narrow = self.library is not None and value.dtype == torch.bfloat16
        self.is_narrow = may_be_narrow and points.dtype == weights.dtype == torch.bfloat16
        stored = torch.bfloat16 if self.is_narrow else self.dtype
        self.value = value.to(value.dtype if may_be_narrow else self.dtype).contiguous()
        self.points, self.weights = (x.to(stored).contiguous() for x in (points, weights))
        self.reference = None if reference is None else reference.to(self.dtype).contiguous()
        self.valid = None if valid is None else valid.to(torch.int32).contiguous()
        starts = [sum(h * w for h, w in shapes[:i]) for i in range(len(shapes))]
        rows = [(h, w, start) for (h, w), start in zip(shapes, starts, strict=True)]
        self.levels = torch.tensor(rows, dtype=torch.int32)

    def arguments(self, **results: Tensor | None) -> _Arguments:
        """The struct of the C code."""
        B, S, M, D = self.value.shape
        _, Q, _, L, P, _ = self.points.shape
        tensors = {
            "value": self.value,
            "points": self.points,
            "weights": self.weights,
            "reference": self.reference,
            "valid": self.valid,
            "levels": self.levels,
            **results,
        }
        return _Arguments(
            **{name: x.data_ptr() for name, x in tensors.items() if x is not None},
            S=S,
            M=M,
            D=D,
            Q=Q,
            L=L,
            P=P,
            kind=0 if self.reference is None else self.reference.shape[-1],
            share_points=B // self.points.shape[0],
            share_reference=1 if self.reference is None else B // self.reference.shape[0],
            share_valid=1 if self.valid is None else B // self.valid.shape[0],
            narrow=self.is_narrow,
        )


class _Arguments(ctypes.Structure):
    """`Arguments` of cpu.c; absent pointers are null."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("value", "points", "weights", "reference")),
        *((name, ctypes.c_void_p) for name in ("valid", "levels", "output", "grad_output")),
        *((name, ctypes.c_void_p) for name in ("grad_value", "grad_points", "grad_weights")),
        ("grad_reference", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("S", "M", "D", "Q", "L", "P", "kind")),
        *((f"share_{name}", ctypes.c_int64) for name in ("points", "reference", "valid")),
        ("narrow", ctypes.c_int64),
    ]


class _Job(ctypes.Structure):
    """`Job` of cpu.c."""

    _fields_ = [
        (f"{axis}_{end}", ctypes.c_int64)
        for axis in ("image", "query", "head")
        for end in ("begin", "end")
    ]


def _cuts(length: int, pieces: int) -> list[tuple[int, int]]:
    """0..length in about equal pieces, at most `length` of them."""
    pieces = max(1, min(pieces, length))
    edges = [length * i // pieces for i in range(pieces + 1)]
    return list(pairwise(edges))


def _per_image(x: Tensor, B: int) -> Tensor:
    """Repeat what images share."""
    return x if x.shape[0] == B else x.repeat_interleave(B // x.shape[0], dim=0)


def _slopes(inputs: _Inputs, B: int) -> Tensor:
    """Derivative of a location by its offset, broadcastable to [B, Q, M, L, P, 2]."""
    assert inputs.reference is not None
    sizes = inputs.value.new_tensor([[w, h] for h, w in inputs.shapes])
    if inputs.reference.shape[-1] == 2:
        return 1 / sizes[:, None]
    half = _per_image(inputs.reference, B)[..., 2:] * (0.5 / inputs.points.shape[4])
    return half[:, :, None, :, None]


def _sampling(inputs: _Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Locations and softmaxed weights per image, and the value with zeros outside."""
    B = inputs.value.shape[0]
    points, weights = _per_image(inputs.points, B), _per_image(inputs.weights, B)
    if inputs.reference is None:
        return points, weights, inputs.value
    centre = _per_image(inputs.reference, B)[:, :, None, :, None, :2]
    weights = weights.flatten(3).softmax(-1).view_as(weights)
    value = inputs.value
    if inputs.valid is not None:
        value = value * _inside(inputs, B)
    return centre + points * _slopes(inputs, B), weights, value


def _inside(inputs: _Inputs, B: int) -> Tensor:
    """[B, S, 1, 1], 1 inside the valid region and 0 outside."""
    assert inputs.valid is not None
    valid = _per_image(inputs.valid, B)
    levels = []
    for level, (height, width) in enumerate(inputs.shapes):
        rows = torch.arange(height) < valid[:, level, :1]
        columns = torch.arange(width) < valid[:, level, 1:]
        levels.append((rows[:, :, None] & columns[:, None]).flatten(1))
    return torch.cat(levels, dim=1)[..., None, None].to(inputs.dtype)


def _torch_forward(inputs: _Inputs) -> Tensor:
    locations, weights, value = _sampling(inputs)
    return cpu_torch.forward(value, inputs.shapes, locations, weights)


def _torch_backward(
    inputs: _Inputs, grad_output: Tensor, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Per image and, for the reference, per head: as the C code leaves them."""
    B = inputs.value.shape[0]
    locations, weights, value = _sampling(inputs)
    grad_value, d_locations, d_weights = cpu_torch.backward(
        grad_output, value, inputs.shapes, locations, weights, needs[0]
    )
    if inputs.reference is None:
        return grad_value, d_locations, d_weights, None
    if inputs.valid is not None:
        grad_value = grad_value * _inside(inputs, B)
    mean = (weights * d_weights).sum((-1, -2), keepdim=True)
    grad_reference = d_locations.sum(4)  # [B, Q, M, L, 2]
    if inputs.reference.shape[-1] == 4:
        points = _per_image(inputs.points, B)
        grown = (points * d_locations).sum(4) * (0.5 / points.shape[4])
        grad_reference = torch.cat([grad_reference, grown], dim=-1)
    grad_points = d_locations * _slopes(inputs, B)
    return grad_value, grad_points, weights * (d_weights - mean), grad_reference
