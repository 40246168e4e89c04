"""Calls of deformable attention that benchmarks share: their sizes, inputs and least cost.

A call is a layer of the published model at one of its frame sizes. Samples follow a pattern, since
speed depends on locality: "normal" (2.5 cells around the reference), "initial" (the directions of a
new model, up to 4 cells) or "uniform" (anywhere, the worst case).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

import kernels
from bench.baselines.published import sample_frame

Pattern = Literal["normal", "initial", "uniform"]
M, D, P, STRIDES = 8, 32, 4, (8, 16, 32, 64)
"""Heads, channels of a head, points per level, and pixels per cell of the levels."""


@dataclass(frozen=True, kw_only=True)
class MSDACall:
    """One layer's call: frames of clips of T frames, all at once.

    Attributes:
        height, width: of the frames, in pixels.
        frames: B * T images of height x width pixels.
        queries: per frame; None for an encoder layer, whose queries are its tokens.
    """

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

    def model_flops(self) -> dict[str, int]:
        """By the formulas registered with the operator."""
        op = torch.ops.seqformer_kernels
        value = (self.frames, self.tokens, M, D)
        points = (self.frames, self.queries or self.tokens, M, len(STRIDES), P, 2)
        output = (*points[:2], M * D)
        return {
            "forward": flop_registry[op.ms_deform_attn](value, points, out_val=None),
            "backward": flop_registry[op.ms_deform_attn_backward](
                output, value, points, out_val=None
            ),
        }

    def inputs(self, device: torch.device, seed: int = 0) -> Inputs:
        """Random inputs whose samples follow the pattern, drawn on the device."""
        with device:
            return self._inputs(torch.Generator(device).manual_seed(seed))

    def _inputs(self, g: torch.Generator) -> Inputs:
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
            # A little beside the grid, on which gradients jump and implementations may differ.
            offsets = offsets + 0.05 * torch.randn(n, Q, M, L, P, 2, generator=g)
        elif self.pattern == "normal":
            offsets = 2.5 * torch.randn(n, Q, M, L, P, 2, generator=g)
        else:
            places = torch.rand(n, Q, M, L, P, 2, generator=g)
            offsets = (places - reference[:, :, None, :, None]) * sizes[:, None]
        return Inputs(
            value=torch.randn(n, self.tokens, M, D, generator=g).to(self.dtype),
            offsets=offsets.contiguous(),
            logits=torch.randn(n, Q, M, L, P, generator=g),
            reference=reference,
            shapes=self.shapes,
            grad_output=torch.randn(n, Q, M * D, generator=g).to(self.dtype),
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


Run = Callable[[Inputs, list[Tensor]], Tensor]
"""From inputs and their leaves to the output."""


def ours(inputs: Inputs, leaves: list[Tensor]) -> Tensor:
    """The fused operator on raw inputs."""
    value, offsets, logits = leaves
    return kernels.ms_deform_attn_fused(value, inputs.shapes, offsets, logits, inputs.reference)


def reference(inputs: Inputs, leaves: list[Tensor]) -> Tensor:
    """`grid_sample` for all frames at once."""
    value, offsets, logits = leaves
    return kernels.ms_deform_attn_fused_reference(
        value, inputs.shapes, offsets, logits, inputs.reference
    )


def published(inputs: Inputs, leaves: list[Tensor]) -> Tensor:
    """Frame by frame, level by level, in float32 as autocast runs it."""
    value, locations, weights = prepared(inputs, leaves)
    frames = [
        sample_frame(
            value[i : i + 1].float().contiguous(),
            inputs.shapes,
            locations[i : i + 1],
            weights[i : i + 1],
        )
        for i in range(value.shape[0])
    ]
    return torch.cat(frames).to(value.dtype)


def prepared(inputs: Inputs, leaves: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Masked value, locations and softmaxed weights, as the operators of the field take them."""
    value, offsets, logits = leaves
    padding = torch.zeros(value.shape[:2], dtype=torch.bool, device=value.device)
    value = value.masked_fill(padding[..., None, None], 0.0)
    locations = inputs.reference[:, :, None, :, None] + offsets / level_sizes(inputs)[:, None]
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    return value, locations, weights


def level_sizes(inputs: Inputs) -> Tensor:
    """[L, 2] (width, height), float32, on the device of the inputs."""
    return _sizes(tuple(inputs.shapes), inputs.value.device)


@lru_cache(maxsize=64)
def _sizes(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    return torch.tensor([[w, h] for h, w in shapes], dtype=torch.float32, device=device)
