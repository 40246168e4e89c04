"""Relative errors of the kernels against float64, on cut-down calls, before anything is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import kernels
from bench.suite import mask_calls
from bench.suite.implementations import merged_adds
from bench.suite.mask_calls import MaskCall
from bench.suite.msda_calls import Inputs, MSDACall
from bench.suite.run import Run
from bench.suite.tolerances import RELATIVE_NORM
from kernels.mask_head.op import sizes_of

LIMITS = {str(d).removeprefix("torch."): limit for d, limit in RELATIVE_NORM.items()}
"""Relative errors beyond which nothing is timed."""
Errors = dict[str, float]


@dataclass(frozen=True)
class Check:
    """One operator in one dtype: `run` gives the relative errors of what it makes, by name."""

    name: str
    dtype: str
    run: Callable[[], Errors]


def checks(device: torch.device, is_smoke: bool) -> list[Check]:
    """Of all operators, in float32 alone if `is_smoke`, on small calls."""
    dtypes = (torch.float32,) if is_smoke else (torch.float32, torch.float16, torch.bfloat16)
    found = []
    for dtype in dtypes:
        kind = str(dtype).removeprefix("torch.")
        operators: dict[str, Callable[[], Errors]] = {
            "deformable attention": partial(_attention, device, dtype, is_smoke),
            "merged attention": partial(_merged, device, dtype, is_smoke),
            "deterministic attention": partial(_deterministic, device, dtype, is_smoke),
            "mask head": partial(_masks, device, dtype, is_smoke, "logits"),
            "mask losses": partial(_masks, device, dtype, is_smoke, "losses"),
            "drawn masks": partial(_drawn, device, dtype, is_smoke),
            "kernels in graphs": partial(_in_graphs, device, dtype, is_smoke),
        }
        found += [Check(f"{kind} {name}", kind, run) for name, run in operators.items()]
    return found


def run_all(run: Run, device: torch.device, is_smoke: bool, needs: float = 0.0) -> None:
    """Do them as stages of a run: a row of `extra["checks"]` each, {"name", "dtype",
    "relative_error": {name: error}} or, where one raised, {"name", "dtype", "error"}; and in
    `extra["failed_checks"]` what is wrong, in words."""
    rows = run.extra.setdefault("checks", [])
    failed = run.extra.setdefault("failed_checks", [])
    for check in checks(device, is_smoke):
        row: dict[str, Any] = {"name": check.name, "dtype": check.dtype}
        errors = run.stage(check.name, check.run, needs)
        if errors is None:
            raised = run.extra["failures"].get(check.name)
            row["error"] = raised or f"was not done: {run.extra['left_out'][check.name]}"
            failed.append(f"{check.name}{':' if raised else ''} {row['error']}")
        else:
            row["relative_error"] = errors
            failed += [
                f"{check.dtype} {name}: {error:.1e}"
                for name, error in errors.items()
                if not error <= LIMITS[check.dtype]
            ]
        rows.append(row)
        run.save()


def _attention(device: torch.device, dtype: torch.dtype, is_smoke: bool) -> Errors:
    size = 16 if is_smoke else 160
    inputs = MSDACall(height=size, width=size + 32, frames=2, dtype=dtype).inputs(device, seed=1)
    names = ("output", "grad_value", "grad_offsets", "grad_logits")
    return _errors(names, _attention_results(inputs), _attention_results(inputs, is_wide=True))


def _merged(device: torch.device, dtype: torch.dtype, is_smoke: bool) -> Errors:
    """The same, whose backward merges adds for any size and on any GPU."""
    with merged_adds():
        errors = _attention(device, dtype, is_smoke)
    return {f"merged {name}": error for name, error in errors.items()}


def _deterministic(device: torch.device, dtype: torch.dtype, is_smoke: bool) -> Errors:
    """The same errors in the deterministic mode; and whether two runs of it differ at all."""
    size = 8 if is_smoke else 160
    inputs = MSDACall(height=size, width=size + 8, frames=1, dtype=dtype).inputs(device, seed=2)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (_attention_results(inputs) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(before)
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    names = ("output", "grad_value", "grad_offsets", "grad_logits")
    errors = _errors(
        tuple(f"deterministic {name}" for name in names),
        first,
        _attention_results(inputs, is_wide=True),
    )
    return errors | {"deterministic repetition": 0.0 if same else float("inf")}


def _attention_results(inputs: Inputs, is_wide: bool = False) -> list[Tensor]:
    """Output and gradients, of ours or of the definition in float64."""
    call = kernels.ms_deform_attn_fused_reference if is_wide else kernels.ms_deform_attn_fused
    leaves = [t.double() if is_wide else t for t in inputs.leaves()]
    leaves = [t.detach().requires_grad_() for t in leaves]
    reference = inputs.reference.double() if is_wide else inputs.reference
    output = call(leaves[0], inputs.shapes, *leaves[1:], reference)
    grads = torch.autograd.grad(output, leaves, inputs.grad_output.to(output.dtype))
    return [output.detach(), *grads]


def _masks(device: torch.device, dtype: torch.dtype, is_smoke: bool, label: str) -> Errors:
    size = 8 if is_smoke else 200
    call = MaskCall(
        instances=2, frames=1 if is_smoke else 3, height=size, width=size + 8, dtype=dtype
    )
    inputs = call.inputs(device, seed=1)
    names = ("grad_features", "grad_params", "grad_references")
    operator, grad = {
        "logits": (mask_calls.ours, inputs.grad),
        "losses": (mask_calls.our_losses, None),
    }[label]

    def results(leaves: list[Tensor], grad: Tensor | None) -> list[Tensor]:
        out = operator(inputs, leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

    found = results(inputs.leaves(), grad)
    wide = [t.detach().double().requires_grad_() for t in inputs.leaves()]
    with kernels.use_backend("reference"):
        exact = results(wide, None if grad is None else grad.double())
    return _errors((label, *(f"{label} {name}" for name in names)), found, exact)


def _drawn(device: torch.device, dtype: torch.dtype, is_smoke: bool) -> Errors:
    """Share of pixels of drawn masks that differ from the definition."""
    size = 8 if is_smoke else 64
    generator = torch.Generator(device).manual_seed(1)
    logits = torch.randn(2, size, size + 4, generator=generator, device=device)
    frame = (2 * size + 3, 2 * size + 5)
    found = kernels.threshold_masks(logits.to(dtype), frame)
    with kernels.use_backend("reference"):
        exact = kernels.threshold_masks(logits.to(dtype).double(), frame)
    return {"drawn masks": float((found != exact).double().mean())}


def _in_graphs(device: torch.device, dtype: torch.dtype, is_smoke: bool) -> Errors:
    """Forward kernels as operators that compilers look into."""
    from kernels.deformable_attention.triton_in_graph import forward as attend
    from kernels.mask_head.triton_in_graph import forward as draw

    size = 72 if is_smoke else 160
    points = MSDACall(height=size, width=size + 32, frames=1, dtype=dtype).inputs(device, seed=3)
    masks = MaskCall(instances=2, frames=1, height=size, width=size + 8, dtype=dtype)
    pixels = masks.inputs(device, seed=3)
    points_given = (points.value, points.offsets, points.logits, points.reference)
    pixels_given = (pixels.features, pixels.params, pixels.references)
    sides = [side for shape in points.shapes for side in shape]
    clips, sizes = pixels.clip_index, sizes_of(kernels.MaskHeadConfig())
    found = [attend(*points_given, sides), draw(*pixels_given, clips, sizes)]
    value, *wide = (t.double() for t in points_given)
    exact = [
        kernels.ms_deform_attn_fused_reference(value, points.shapes, *wide),
        kernels.dynamic_mask_head_reference(*(t.double() for t in pixels_given), clips),
    ]
    return _errors(("output in a graph", "logits in a graph"), found, exact)


def _errors(names: tuple[str, ...], found: list[Tensor], exact: list[Tensor]) -> Errors:
    return {
        name: float((a.double() - b).norm() / b.norm())
        for name, a, b in zip(names, found, exact, strict=True)
    }
