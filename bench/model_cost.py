"""Least work of a whole-model call, counted on fake tensors when somebody asks.

Bytes: weights and images read once, and in training every gradient written once; activations could
in principle stay on the chip. FLOPs: those of our formulation, matrix products, convolutions and
the kernels, both ways in training; the matching is left out. In half precision all matrix products
and convolutions count as half, although a few small heads stay float32.
"""

from __future__ import annotations

from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from bench.case import Call, Cost
from bench.flops import CountedCost
from bench.model_inputs import ModelSize
from bench.ours import NUM_OUTPUT_QUERIES
from seqformer.model import SeqFormer, TemporalPool, build_model, render_masks
from seqformer.model.masks import mask_loss_sums

HALVES = ("float16", "bfloat16")


def training_cost(size: ModelSize, dtype: str) -> Cost:
    """Of forward, losses and backward; weights and gradients stay float32 under autocast."""

    def moved() -> int:
        weights, gradients = _parameters(size.backbone, size.overrides)
        return 4 * (weights + gradients + _pixels(size))

    return CountedCost(moved, partial(_training, size), dtype in HALVES)


def inference_cost(size: ModelSize, dtype: str) -> Cost:
    """Of a video, from frames to the masks of the output queries."""
    is_half = dtype in HALVES

    def moved() -> int:
        weights, _ = _parameters(size.backbone, size.overrides)
        return (2 if is_half else 4) * (weights + _pixels(size))

    return CountedCost(moved, partial(_inference, size), is_half)


def _training(size: ModelSize, device: torch.device) -> Call:
    model, images = _fake_model(size), _fake_video(size)

    def step() -> None:
        output = model(images)
        D, B, T, Q = output.boxes.shape[:4]
        count = B * min(size.instances, Q)
        layer = torch.arange(D).repeat_interleave(count)
        clip = torch.zeros_like(layer)
        h, w = output.mask_features.shape[-2:]
        sums = mask_loss_sums(
            output.mask_features,
            output.mask_params[layer, clip, clip],
            output.reference_points.transpose(2, 3)[layer, clip, clip],
            clip,
            output.mask_stride,
            torch.empty(count, T, 2 * h, 2 * w, dtype=torch.bool),
            clip,
            0.25,
            2.0,
        )
        (output.total() + torch.stack(list(sums)).sum()).backward()

    return step


def _inference(size: ModelSize, device: torch.device) -> Call:
    model, images = _fake_model(size).eval(), _fake_video(size)

    @torch.no_grad()
    def infer() -> Tensor:
        states, features = model.box_stream(images)
        pooled = TemporalPool.of(states.time_logits, states.sampled).pooled()
        _, params = model.instance_heads(model.instance_stream(pooled), last_layer_only=True)
        chosen = torch.zeros(NUM_OUTPUT_QUERIES, dtype=torch.long)
        references = torch.empty(NUM_OUTPUT_QUERIES, size.frames, 2)
        return render_masks(features, params[-1, 0, chosen], references, chosen, model.mask_stride)

    return infer


def _pixels(size: ModelSize) -> int:
    return 3 * size.clips * size.frames * size.height * size.width


@lru_cache(maxsize=32)
def _parameters(backbone: str, overrides: tuple[tuple[str, int], ...]) -> tuple[int, int]:
    """Numbers in all weights, and in those that are trained."""
    parameters = list(_meta_model(backbone, overrides).parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def _meta_model(backbone: str, overrides: tuple[tuple[str, int], ...]) -> SeqFormer:
    with torch.device("meta"):
        return build_model(backbone, **dict(overrides))


def _fake_model(size: ModelSize) -> SeqFormer:
    """Inside `FakeTensorMode`, where some initial values could not be drawn."""
    model = _meta_model(size.backbone, size.overrides)
    for module in model.modules():
        for name, tensor in module.named_parameters(recurse=False):
            fake = nn.Parameter(torch.empty(tensor.shape), requires_grad=tensor.requires_grad)
            module.register_parameter(name, fake)
        for name, tensor in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.empty(tensor.shape, dtype=tensor.dtype))
    return model


def _fake_video(size: ModelSize) -> Tensor:
    return torch.empty(size.clips, size.frames, 3, size.height, size.width)
