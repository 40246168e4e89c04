"""Relative errors of the kernels against float64, on cut-down calls, before anything is timed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import kernels
from bench import mask_calls
from bench.mask_calls import MaskCall
from bench.msda_calls import MSDACall
from bench.tolerances import RELATIVE_NORM

LIMITS = {str(d).removeprefix("torch."): limit for d, limit in RELATIVE_NORM.items()}
"""Relative errors beyond which nothing is timed."""


def run(device: torch.device, is_smoke: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """Errors of all operators and dtypes, {"dtype", "relative_error": {name: error}} each, and
    those beyond their limit, in words."""
    dtypes = (torch.float32,) if is_smoke else (torch.float32, torch.float16, torch.bfloat16)
    rows = []
    for dtype in dtypes:
        for errors in (_msda(device, dtype, is_smoke), *_mask(device, dtype, is_smoke)):
            rows.append({"dtype": str(dtype).removeprefix("torch."), "relative_error": errors})
    failed = [
        f"{row['dtype']} {name}: {error:.1e}"
        for row in rows
        for name, error in row["relative_error"].items()
        if not error <= LIMITS[row["dtype"]]
    ]
    return rows, failed


def _msda(device: torch.device, dtype: torch.dtype, is_smoke: bool) -> dict[str, float]:
    size = 32 if is_smoke else 160
    inputs = MSDACall(height=size, width=size + 32, frames=2, dtype=dtype).inputs(device, seed=1)
    found, exact = [], []
    for results, call, wide in (
        (found, kernels.ms_deform_attn_fused, False),
        (exact, kernels.ms_deform_attn_fused_reference, True),
    ):
        leaves = [t.double() if wide else t for t in inputs.leaves()]
        leaves = [t.detach().requires_grad_() for t in leaves]
        reference = inputs.reference.double() if wide else inputs.reference
        output = call(leaves[0], inputs.shapes, *leaves[1:], reference)
        grads = torch.autograd.grad(output, leaves, inputs.grad_output.to(output.dtype))
        results += [output.detach(), *grads]
    return _errors(("output", "grad_value", "grad_offsets", "grad_logits"), found, exact)


def _mask(device: torch.device, dtype: torch.dtype, is_smoke: bool) -> Iterator[dict[str, float]]:
    size = 8 if is_smoke else 200
    call = MaskCall(
        instances=2, frames=1 if is_smoke else 3, height=size, width=size + 8, dtype=dtype
    )
    inputs = call.inputs(device, seed=1)
    names = ("grad_features", "grad_params", "grad_references")
    for label, operator, grad in (
        ("logits", mask_calls.ours, inputs.grad),
        ("losses", mask_calls.our_losses, None),
    ):

        def results(leaves: list[Tensor], grad: Tensor | None, run=operator) -> list[Tensor]:
            out = run(inputs, leaves)
            return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

        found = results(inputs.leaves(), grad)
        wide = [t.detach().double().requires_grad_() for t in inputs.leaves()]
        with kernels.use_backend("reference"):
            exact = results(wide, None if grad is None else grad.double())
        yield _errors((label, *(f"{label} {name}" for name in names)), found, exact)


def _errors(names: tuple[str, ...], found: list[Tensor], exact: list[Tensor]) -> dict[str, float]:
    return {
        name: float((a.double() - b).norm() / b.norm())
        for name, a, b in zip(names, found, exact, strict=True)
    }
