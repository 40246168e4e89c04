"""Least work of a whole-model call, counted when somebody asks: on fake tensors, nothing computed.

Bytes: weights and images read once, and in training every gradient written once; activations could
in principle stay on the chip. FLOPs: those of our formulation, matrix products, convolutions and
the kernels, both ways in training; the matching on the host is left out. In half precision all
matrix products and convolutions count as half, although a few small heads stay float32.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.suite.flops import CountedCost, FlopCounter, Work
from bench.suite.model_inputs import ModelSize
from bench.suite.ours import NUM_OUTPUT_QUERIES
from bench.suite.schema import Cost
from seqformer.model import SeqFormer, TemporalPool, build_model, render_masks
from seqformer.model.masks import mask_loss_sums

HALVES = ("float16", "bfloat16")


def training_cost(size: ModelSize, dtype: str) -> Cost:
    """Of forward, losses and backward; weights and gradients stay float32 under autocast."""
    return CountedCost(partial(_training_work, size), dtype in HALVES, 4)


def inference_cost(size: ModelSize, dtype: str) -> Cost:
    """Of a video, from frames to the masks of the output queries."""
    is_half = dtype in HALVES
    return CountedCost(partial(_inference_work, size), is_half, 2 if is_half else 4)


@lru_cache(maxsize=64)
def _training_work(size: ModelSize) -> Work:
    if size.clips > 1:  # all clips cost the same; only weights are shared
        one = _training_work(replace(size, clips=1))
        pixels = 3 * size.frames * size.height * size.width
        return Work(
            one.flops * size.clips,
            one.product_flops * size.clips,
            one.numbers + (size.clips - 1) * pixels,
        )
    with FakeTensorMode(), FlopCounter() as counter:
        model = _model(size)
        output = model(_video(size))
        D, _, T, Q = output.boxes.shape[:4]
        layer = torch.arange(D).repeat_interleave(min(size.instances, Q))
        query = torch.zeros_like(layer)
        h, w = output.mask_features.shape[-2:]
        sums = mask_loss_sums(
            output.mask_features,
            output.mask_params[layer, 0, query],
            output.reference_points.transpose(2, 3)[layer, 0, query],
            torch.zeros_like(layer),
            output.mask_stride,
            torch.empty(size.instances, T, 2 * h, 2 * w, dtype=torch.bool),
            query,
            0.25,
            2.0,
        )
        (output.total() + torch.stack(list(sums)).sum()).backward()
    weights = sum(p.numel() for p in model.parameters())
    gradients = sum(p.numel() for p in model.parameters() if p.requires_grad)
    pixels = 3 * size.frames * size.height * size.width
    return _work(counter, weights + gradients + pixels)


@lru_cache(maxsize=64)
def _inference_work(size: ModelSize) -> Work:
    with FakeTensorMode(), torch.no_grad(), FlopCounter() as counter:
        model = _model(size).eval()
        states, features = model.box_stream(_video(size))
        pooled = TemporalPool.of(states.time_logits, states.sampled).pooled()
        _, params = model.instance_heads(model.instance_stream(pooled), last_layer_only=True)
        chosen = torch.zeros(NUM_OUTPUT_QUERIES, dtype=torch.long)
        references = torch.empty(NUM_OUTPUT_QUERIES, size.frames, 2)
        render_masks(features, params[-1, 0, chosen], references, chosen, model.mask_stride)
    weights = sum(p.numel() for p in model.parameters())
    return _work(counter, weights + 3 * size.frames * size.height * size.width)


def _work(counter: FlopCounter, numbers: int) -> Work:
    return Work(counter.flops, counter.product_flops, numbers)


def _model(size: ModelSize) -> SeqFormer:
    """Inside `FakeTensorMode`."""
    with torch.device("meta"):  # some initial values can be drawn there, but not as fakes
        model = build_model(size.backbone, **dict(size.overrides))
    for module in model.modules():
        for name, tensor in module.named_parameters(recurse=False):
            fake = nn.Parameter(torch.empty(tensor.shape), requires_grad=tensor.requires_grad)
            module.register_parameter(name, fake)
        for name, tensor in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.empty(tensor.shape, dtype=tensor.dtype))
    return model


def _video(size: ModelSize) -> torch.Tensor:
    return torch.empty(1, size.frames, 3, size.height, size.width)
