"""The dynamic mask head on a GPU: checked, then timed beside grouped convolutions.

Cases are the model's: matched queries of six decoder layers in training, ten output queries of a
video at inference. `published flow` is what the original does for a video: all 300 queries in all
six layers, frame by frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import kernels
from bench import mask_cases, timing
from bench.mask_cases import MaskCase, MaskInputs

Run = Callable[[MaskInputs, list[Tensor]], Tensor]
QUERIES, LAYERS = 300, 6


def cases(is_smoke: bool) -> Iterator[MaskCase]:
    """Training at two sizes, and a video."""
    if is_smoke:
        yield MaskCase(name="mask smoke", instances=1, frames=1, height=8, width=16)
        return
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for height, width in ((480, 768), (360, 640)):
            yield MaskCase(
                name=f"mask train {height}x{width}", instances=60, frames=5, height=height,
                width=width, layers=LAYERS, dtype=dtype,
            )  # fmt: skip
    for count in (1, 10, 50, QUERIES):
        yield MaskCase(
            name=f"mask video N={count}", instances=count, frames=36, height=360, width=640
        )


def check(device: torch.device, is_smoke: bool) -> list[dict[str, Any]]:
    """Relative errors against float64 on a cut-down call, before anything is timed."""
    rows = []
    dtypes = (torch.float32,) if is_smoke else (torch.float32, torch.float16, torch.bfloat16)
    size = 8 if is_smoke else 200
    names = ("grad_features", "grad_params", "grad_references")
    for dtype in dtypes:
        case = MaskCase(
            name="check", instances=2, frames=1 if is_smoke else 3, height=size, width=size + 8,
            dtype=dtype,
        )  # fmt: skip
        inputs = case.inputs(device, seed=1)
        errors: dict[str, float] = {}
        for label, run, grad in (
            ("logits", mask_cases.ours, inputs.grad),
            ("losses", mask_cases.our_losses, None),
        ):
            found = _results(run, inputs, inputs.leaves(), grad)
            wide = [t.detach().double().requires_grad_() for t in inputs.leaves()]
            with kernels.use_backend("reference"):
                exact = _results(run, inputs, wide, None if grad is None else grad.double())
            pairs = zip((label, *(f"{label} {n}" for n in names)), found, exact, strict=True)
            errors |= {n: float((a.double() - b).norm() / b.norm()) for n, a, b in pairs}
        rows.append({"dtype": str(dtype).removeprefix("torch."), "relative_error": errors})
    return rows


def _results(
    run: Run, inputs: MaskInputs, leaves: list[Tensor], grad: Tensor | None
) -> list[Tensor]:
    out = run(inputs, leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def run_cases(
    device: torch.device, ceilings: dict[str, float], is_smoke: bool, with_peers: bool
) -> Iterator[dict[str, Any]]:
    """One record per case and contender; `ours` first, ratios against it."""
    for case in cases(is_smoke):
        yield from _compare(case, device, "logits", mask_cases.ours, mask_cases.published)
        if case.layers > 1 or is_smoke:
            yield from _compare(
                case, device, "losses", mask_cases.our_losses, mask_cases.published_losses
            )
        if with_peers and case.instances == 10 and not is_smoke:
            yield from _whole_flow(case, device)
    yield from _drawing(device, is_smoke)


def _compare(
    case: MaskCase, device: torch.device, what: str, ours: Run, published: Run
) -> Iterator[dict[str, Any]]:
    inputs = case.inputs(device)
    mine: dict[str, Any] = {}
    for contender, run in (("ours", ours), ("grouped convolutions", published)):
        if contender != "ours" and case.dtype != torch.float32:
            continue  # the published code multiplies coordinates in the dtype of the features
        try:
            times = _time(run, inputs, device, inputs.grad if what == "logits" else None)
        except torch.OutOfMemoryError:
            yield {"case": case.name, "contender": contender, "error": "out of memory"}
            continue
        mine = mine or times
        yield {
            "op": "mask",
            "case": f"{case.name} {what}",
            "contender": contender,
            "dtype": str(case.dtype).removeprefix("torch."),
            "pattern": "-",
            "model_bytes": case.model_bytes(),
            "fwd_ms": times["fwd_cold"]["ms"],
            "bwd_ms": times["bwd_cold"]["ms"],
            **times,
        } | (
            {}
            if contender == "ours"
            else {
                "forward_ratio": times["fwd_cold"]["ms"] / mine["fwd_cold"]["ms"],
                "both_ratio": times["both_cold"]["ms"] / mine["both_cold"]["ms"],
            }
        )


def _time(
    run: Run, inputs: MaskInputs, device: torch.device, grad: Tensor | None
) -> dict[str, Any]:
    fixed = [t.detach() for t in inputs.leaves()]
    leaves = inputs.leaves()
    output = run(inputs, leaves)

    def both() -> Any:
        return torch.autograd.grad(run(inputs, leaves), leaves, grad)

    return {
        "fwd_cold": timing.cold(lambda: run(inputs, fixed), device),
        "bwd_cold": timing.cold(
            lambda: torch.autograd.grad(output, leaves, grad, retain_graph=True), device
        ),
        "both_cold": timing.cold(both, device),
        "peak_bytes": timing.peak_bytes(both, device),
    }


def _whole_flow(case: MaskCase, device: torch.device) -> Iterator[dict[str, Any]]:
    """The masks of a video: ours for the output queries, the original's for all in all layers."""
    mine = case.inputs(device)
    everything = MaskCase(
        name=case.name, instances=QUERIES, frames=case.frames, height=case.height, width=case.width
    ).inputs(device)
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: mask_cases.ours(mine, mine.leaves()),
        "published flow": lambda: [
            mask_cases.published(everything, everything.leaves()) for _ in range(LAYERS)
        ],
    }
    times = {}
    for name, call in calls.items():
        with torch.no_grad():
            times[name] = timing.cold(call, device)
        row = {"op": "mask", "case": f"{case.name} flow", "contender": name, "dtype": "float32"}
        row |= {"pattern": "-", "fwd_ms": times[name]["ms"], "bwd_ms": 0.0, "fwd_cold": times[name]}
        if name != "ours":
            row["forward_ratio"] = row["both_ratio"] = times[name]["ms"] / times["ours"]["ms"]
        yield row


def _drawing(device: torch.device, is_smoke: bool) -> Iterator[dict[str, Any]]:
    """Masks of the frame's size from logits, packed, against interpolating all of them."""
    count, h, w, size = (2, 6, 8, (24, 33)) if is_smoke else (36, 90, 160, (720, 1280))
    logits = mask_cases.blobs(count, h, w).to(device)
    calls: dict[str, Callable[[], Any]] = {
        "ours, bits": lambda: kernels.threshold_masks(logits, size, packed=True),
        "ours, bytes": lambda: kernels.threshold_masks(logits, size),
        "interpolation": lambda: mask_cases.drawn_masks(logits, size),
    }
    first = None
    for name, call in calls.items():
        times = timing.cold(call, device)
        first = first or times["ms"]
        row = {"op": "mask", "case": "mask drawing", "contender": name, "dtype": "float32"}
        row |= {"pattern": "-", "fwd_ms": times["ms"], "bwd_ms": 0.0, "fwd_cold": times}
        ratio = times["ms"] / first
        yield row | {"forward_ratio": ratio, "both_ratio": ratio}
