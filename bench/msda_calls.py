"""Deformable attention on a GPU: the model's launches, checked, then timed beside its peers.

A case is a layer of the published model at one of its frame sizes. Samples follow a pattern, since
speed depends on locality: "normal" (2.5 cells around the reference), "initial" (the directions of a
new model, up to 4 cells) or "uniform" (anywhere, the worst case).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import kernels
from bench import timing
from bench.gpu_peers import available_peers

Pattern = Literal["normal", "initial", "uniform"]
M, D, P, STRIDES = 8, 32, 4, (8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class MSDACase:
    """One layer's call: frames of clips of T frames, all at once.

    Attributes:
        frames: B * T images of height x width pixels.
        queries: per frame; None for an encoder layer, whose queries are its tokens.
    """

    name: str
    height: int
    width: int
    frames: int
    queries: int | None = None
    pattern: Pattern = "normal"
    dtype: torch.dtype = torch.float32

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [(-(-self.height // s), -(-self.width // s)) for s in STRIDES]

    @property
    def tokens(self) -> int:
        return sum(h * w for h, w in self.shapes)

    @property
    def rows(self) -> int:
        return self.frames * (self.queries or self.tokens) * M

    def model_bytes(self) -> dict[str, int]:
        """Each tensor once: forward reads value, offsets and logits and writes the output; backward
        reads all of them and writes all gradients, that of value in float32."""
        value = self.frames * self.tokens * M * D * self.dtype.itemsize
        output = self.rows * D * self.dtype.itemsize
        samples = self.rows * len(STRIDES) * P * 3 * 4
        grad_value = self.frames * self.tokens * M * D * 4
        forward = value + samples + output
        return {"forward": forward, "backward": forward + samples + 2 * grad_value}

    def gathered_bytes(self) -> int:
        """Corner vectors asked of the caches."""
        return self.rows * len(STRIDES) * P * 4 * D * self.dtype.itemsize

    def added_floats(self) -> int:
        """Floats that backward adds to the gradient of value."""
        return self.rows * len(STRIDES) * P * 4 * D

    def inputs(self, device: torch.device, seed: int = 0) -> Inputs:
        """Random inputs whose samples follow the pattern."""
        g = torch.Generator().manual_seed(seed)
        L, Q = len(STRIDES), self.queries or self.tokens
        n = self.frames
        reference = self._references(g, Q)
        sizes = torch.tensor([[w, h] for h, w in self.shapes], dtype=torch.float32)
        if self.pattern == "initial":
            angle = torch.arange(M) * (2 * math.pi / M)
            direction = torch.stack([angle.cos(), angle.sin()], -1)
            direction = direction / direction.abs().amax(-1, keepdim=True)
            steps = torch.arange(1, P + 1)[:, None]
            offsets = (direction[:, None, None] * steps).expand(n, Q, M, L, P, 2)
        elif self.pattern == "normal":
            offsets = 2.5 * torch.randn(n, Q, M, L, P, 2, generator=g)
        else:
            places = torch.rand(n, Q, M, L, P, 2, generator=g)
            offsets = (places - reference[:, :, None, :, None]) * sizes[:, None]
        return Inputs(
            value=torch.randn(n, self.tokens, M, D, generator=g).to(device, self.dtype),
            offsets=offsets.contiguous().to(device),
            logits=torch.randn(n, Q, M, L, P, generator=g).to(device),
            reference=reference.to(device),
            shapes=self.shapes,
            grad_output=torch.randn(n, Q, M * D, generator=g).to(device, self.dtype),
        )

    def _references(self, g: torch.Generator, Q: int) -> Tensor:
        """[1, Q, L, 2]: cell centres of all levels, or random points for object queries."""
        if self.queries is not None:
            return torch.rand(1, Q, 1, 2, generator=g).expand(1, Q, len(STRIDES), 2).contiguous()
        levels = []
        for h, w in self.shapes:
            y, x = torch.meshgrid(
                (torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij"
            )
            levels.append(torch.stack([x, y], -1).flatten(0, 1))
        return torch.cat(levels)[None, :, None].expand(1, Q, len(STRIDES), 2).contiguous()


@dataclass(frozen=True)
class Inputs:
    """Raw inputs of one call and a gradient of its output; letters as in the kernels."""

    value: Tensor
    offsets: Tensor
    logits: Tensor
    reference: Tensor
    shapes: list[tuple[int, int]]
    grad_output: Tensor

    def leaves(self) -> list[Tensor]:
        """What gradients are asked for."""
        return [t.detach().requires_grad_() for t in (self.value, self.offsets, self.logits)]


def cases(is_smoke: bool) -> Iterator[MSDACase]:
    """The published model's layers; tiny ones for a smoke run."""
    if is_smoke:
        yield MSDACase(name="encoder smoke", height=32, width=32, frames=1)
        yield MSDACase(name="decoder smoke", height=32, width=32, frames=1, queries=4)
        return
    half = (torch.float16, torch.bfloat16)
    for dtype in (torch.float32, *half):
        yield MSDACase(name="encoder 480x768", height=480, width=768, frames=10, dtype=dtype)
    for height, width, frames in ((288, 512, 10), (360, 640, 10), (360, 640, 36)):
        name = f"encoder {height}x{width}" + " T=36" * (frames == 36)
        for dtype in (torch.float32, torch.bfloat16):
            yield MSDACase(name=name, height=height, width=width, frames=frames, dtype=dtype)
    for dtype in (torch.float32, torch.bfloat16):
        yield MSDACase(
            name="decoder 480x768", height=480, width=768, frames=10, queries=300, dtype=dtype
        )
    for pattern in ("initial", "uniform"):
        yield MSDACase(name="encoder 480x768", height=480, width=768, frames=10, pattern=pattern)


def ours(inputs: Inputs, leaves: list[Tensor]) -> Tensor:
    """The fused operator on raw inputs."""
    value, offsets, logits = leaves
    return kernels.ms_deform_attn_fused(value, inputs.shapes, offsets, logits, inputs.reference)


def check(device: torch.device, is_smoke: bool) -> list[dict[str, Any]]:
    """Relative errors against float64 on a cut-down call, before anything is timed."""
    rows = []
    dtypes = (torch.float32,) if is_smoke else (torch.float32, torch.float16, torch.bfloat16)
    size = 32 if is_smoke else 160
    for dtype in dtypes:
        case = MSDACase(name="check", height=size, width=size + 32, frames=2, dtype=dtype)
        inputs = case.inputs(device, seed=1)
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
        names = ("output", "grad_value", "grad_offsets", "grad_logits")
        errors = {
            name: float((a.double() - b).norm() / b.norm())
            for name, a, b in zip(names, found, exact, strict=True)
        }
        rows.append({"dtype": str(dtype).removeprefix("torch."), "relative_error": errors})
    return rows


def run_cases(
    device: torch.device, ceilings: dict[str, float], is_smoke: bool, with_peers: bool
) -> Iterator[dict[str, Any]]:
    """One record per case and contender; `ours` first, ratios against it."""
    for case in cases(is_smoke):
        copies = timing.copies_for_steady(case.model_bytes()["forward"], device)
        sets = [case.inputs(device, seed) for seed in range(copies)]
        mine = _time(ours, sets, device)
        yield _record(case, "ours", mine, device) | _fractions(case, mine, ceilings)
        peers = available_peers(device) if with_peers else available_peers(device)[:1]
        for peer in peers:
            if not peer.takes(case.dtype):
                continue
            try:
                theirs = _time(peer.run, sets, device)
            except torch.OutOfMemoryError:
                yield {"case": case.name, "contender": peer.name, "error": "out of memory"}
                continue
            ratios = {
                "forward_ratio": theirs["fwd_cold"]["ms"] / mine["fwd_cold"]["ms"],
                "both_ratio": theirs["both_cold"]["ms"] / mine["both_cold"]["ms"],
            }
            yield _record(case, peer.name, theirs, device) | ratios


def _time(
    run: Callable[[Inputs, list[Tensor]], Tensor], sets: list[Inputs], device: torch.device
) -> dict[str, Any]:
    def forward(inputs: Inputs) -> Callable[[], Any]:
        leaves = [t.detach() for t in inputs.leaves()]
        return lambda: run(inputs, leaves)

    def both(inputs: Inputs) -> Callable[[], Any]:
        leaves = inputs.leaves()
        return lambda: torch.autograd.grad(run(inputs, leaves), leaves, inputs.grad_output)

    def backward(inputs: Inputs) -> Callable[[], Any]:
        leaves = inputs.leaves()
        output = run(inputs, leaves)
        return lambda: torch.autograd.grad(output, leaves, inputs.grad_output, retain_graph=True)

    return {
        "fwd_cold": timing.cold(forward(sets[0]), device),
        "fwd_steady": timing.steady([forward(s) for s in sets], device),
        "bwd_cold": timing.cold(backward(sets[0]), device),
        "both_cold": timing.cold(both(sets[0]), device),
        "peak_bytes": timing.peak_bytes(both(sets[0]), device),
    }


def _record(
    case: MSDACase, contender: str, times: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    return {
        "op": "msda",
        "case": case.name,
        "contender": contender,
        "dtype": str(case.dtype).removeprefix("torch."),
        "pattern": case.pattern,
        "frames": case.frames,
        "rows": case.rows,
        "model_bytes": case.model_bytes(),
        "fwd_ms": times["fwd_cold"]["ms"],
        "bwd_ms": times["bwd_cold"]["ms"],
        **times,
    }


def _fractions(case: MSDACase, times: dict[str, Any], ceilings: dict[str, float]) -> dict[str, Any]:
    """Share of the measured gather ceiling (forward) and of the addition ceiling (backward)."""
    gather_ms = case.gathered_bytes() / ceilings["l1_gather_gb_s"] / 1e6
    add_ms = case.added_floats() / ceilings["float_adds_g_s"] / 1e6
    return {
        "fwd_fraction_of_l1_gather": gather_ms / times["fwd_cold"]["ms"],
        "bwd_fraction_of_float_adds": add_ms / times["bwd_cold"]["ms"],
    }
