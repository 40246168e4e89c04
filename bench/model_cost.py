"""Least work of a whole-model call, counted when somebody asks: on fake tensors, nothing computed.

Bytes: weights and images read once, and in training every gradient written once; activations could
in principle stay on the chip. FLOPs: those of our formulation, matrix products, convolutions and
the kernels, both ways in training; the matching on the host is left out. In half precision all
matrix products and convolutions count as half, although a few small heads stay float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bench.case import Cost
from bench.model_inputs import ModelSize
from bench.ours import NUM_OUTPUT_QUERIES
from seqformer.model import SeqFormer, TemporalPool, build_model, render_masks
from seqformer.model.masks import mask_loss_sums

HALVES = ("float16", "bfloat16")
OURS = "seqformer_kernels"
"""Namespace of our operators, which do not run on tensor cores."""


@dataclass(frozen=True)
class Work:
    """Of one call: FLOPs, those in matrix products and convolutions, and numbers moved."""

    flops: int
    product_flops: int
    numbers: int


class _Counter(TorchDispatchMode):
    """Adds up what `flop_registry` says of every operator. (`FlopCounterMode` also follows modules,
    by hooks on gradients that Swin's shifted windows do not bear.)"""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.product_flops = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        named = named or {}
        count = flop_registry.get(operator._overloadpacket)
        if count is None and operator is not torch.ops.prim.device.default:
            with self:
                result = operator.decompose(*arguments, **named)
            if result is not NotImplemented:
                return result
        result = operator(*arguments, **named)
        if count is not None:
            flops = count(*arguments, **named, out_val=result)
            self.flops += flops
            if operator.namespace != OURS:
                self.product_flops += flops
        return result


class CountedCost(Cost):
    """A cost that is counted at first use, so that declaring a case takes no time."""

    def __init__(self, count: Callable[[], Work], is_half: bool, bytes_per_number: int) -> None:
        object.__setattr__(self, "_count", count)
        object.__setattr__(self, "_is_half", is_half)
        object.__setattr__(self, "_bytes_per_number", bytes_per_number)

    @property
    def bytes(self) -> int:
        return self._count().numbers * self._bytes_per_number

    @property
    def flops(self) -> int:
        return self._count().flops

    @property
    def half_flops(self) -> int:
        return self._count().product_flops if self._is_half else 0


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
    with FakeTensorMode(), _Counter() as counter:
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
    with FakeTensorMode(), torch.no_grad(), _Counter() as counter:
        model = _model(size).eval()
        states, features = model.box_stream(_video(size))
        pooled = TemporalPool.of(states.time_logits, states.sampled).pooled()
        _, params = model.instance_heads(model.instance_stream(pooled), last_layer_only=True)
        chosen = torch.zeros(NUM_OUTPUT_QUERIES, dtype=torch.long)
        references = torch.empty(NUM_OUTPUT_QUERIES, size.frames, 2)
        render_masks(features, params[-1, 0, chosen], references, chosen, model.mask_stride)
    weights = sum(p.numel() for p in model.parameters())
    return _work(counter, weights + 3 * size.frames * size.height * size.width)


def _work(counter: _Counter, numbers: int) -> Work:
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
