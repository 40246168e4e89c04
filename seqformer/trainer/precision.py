"""Number formats of a step: fp32, bf16 or fp16 by autocast, with islands that stay in float32.

Coordinates do not survive eight bits of mantissa (a box edge of a 768-pixel frame would move by
pixels), so whatever makes coordinates, logits or mask-head weights computes in float32; and in full
float32, though TF32 be on for everything else (`model/full_float32.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqformer.model import SeqFormer
from seqformer.model.decoder import DecoderLayer
from seqformer.model.full_float32 import full_linear

PrecisionName = Literal["fp32", "bf16", "fp16"]


class Precision:
    """How a step computes.

    Attributes:
        name: fp32, bf16 or fp16.
        low: the low-precision dtype; None for fp32.
        scaler: scales the loss under fp16, whose small gradients would vanish; else does nothing.
    """

    def __init__(
        self, name: PrecisionName, device: torch.device, *, caches_weights: bool = True
    ) -> None:
        """
        Args:
            name: the format.
            device: where the step runs.
            caches_weights: keep low-precision copies for the length of a forward pass; off under
                FSDP, where they would outlive the gathered weights.

        Raises: ValueError when the GPU cannot compute in the format.
        """
        if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
            raise ValueError(
                f"--precision bf16, but {torch.cuda.get_device_name(device)} does not compute in "
                "bf16; use fp16 or fp32"
            )
        self.name, self._device, self._caches_weights = name, device.type, caches_weights
        self.low = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[None]:
        """Inside, matrix products and convolutions run in the low format."""
        return torch.autocast(
            self._device,
            self.low or torch.bfloat16,
            enabled=self.low is not None,
            cache_enabled=self._caches_weights,
        )


def keep_float32_islands(model: SeqFormer) -> None:
    """Make what yields coordinates, logits and mask weights, and all norms, ignore autocast."""
    heads: list[nn.Module] = [model.reference_points, *model.class_embed]
    for mlp in (model.controller, *model.decoder.bbox_embed):
        heads += mlp.layers
    for layer in model.decoder.layers:
        assert isinstance(layer, DecoderLayer)
        heads.append(layer.time_attention_weights)
    for name, module in model.named_modules():
        if name.endswith("sampling_offsets"):
            heads.append(module)
        elif isinstance(module, nn.LayerNorm):
            _keep_float32(module, _layer_norm)
        elif isinstance(module, nn.GroupNorm):
            _keep_float32(module, _group_norm)
    for linear in heads:
        _keep_float32(linear, _linear)


def _keep_float32(module: nn.Module, compute: Callable[..., Tensor]) -> None:
    module.forward = partial(_in_float32, compute, module)


def _in_float32(compute: Callable[..., Tensor], module: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return compute(module, x.float())


# Under FSDP's policy the gathered weights themselves can be in the low format.


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    return full_linear(x, module.weight.float(), module.bias.float())


def _layer_norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    weight, bias = module.weight.float(), module.bias.float()
    return F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)


def _group_norm(module: nn.GroupNorm, x: Tensor) -> Tensor:
    return F.group_norm(
        x, module.num_groups, module.weight.float(), module.bias.float(), module.eps
    )
