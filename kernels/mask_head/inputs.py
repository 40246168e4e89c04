"""What a dynamic mask head takes: its tensors, sizes, layout of parameters, and their checks.

Shared by the operators and by their implementations, so that they cannot disagree about a layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..device import facts

HIDDEN_WIDTHS = (8, 16)
LAYER_COUNTS = (2, 3, 4)
UPSAMPLE_FACTORS = (1, 2, 4)
_INTEGERS = (torch.int64, torch.int32)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 if one of the tensors is."""
    for tensor in tensors:
        if tensor.dtype == torch.float64:
            return torch.float64
    return torch.float32


class MaskHeadInputs(NamedTuple):
    """The tensors of a call, checked.

    Attributes:
        features: [B, T, C, h, w], any float dtype.
        params: [N, G], the layers of each instance's network.
        references: [N, T, 2], (x, y) in input pixels; zeros where the head has no coordinates.
        clip_index: [N] int64 or int32, the clip of each instance.
    """

    features: Tensor
    params: Tensor
    references: Tensor
    clip_index: Tensor

    @property
    def compute_dtype(self) -> torch.dtype:
        """`compute_dtype` of the float tensors."""
        return compute_dtype(*self[:3])


@dataclass(frozen=True)
class MaskHeadConfig:
    """The little network that a query generates, and where it is evaluated; CondInst's by default.

    Attributes:
        channels: C, channels of the mask features.
        hidden_width: D, units of each hidden layer.
        num_layers: with the last, which has one output.
        relative_coordinates: whether rel_x, rel_y come before the channels as inputs.
        upsample: F, aligned upsampling of the result.
        stride: input pixels per cell of the features.
    """

    channels: int = 8
    hidden_width: int = 8
    num_layers: int = 3
    relative_coordinates: bool = True
    upsample: int = 2
    stride: int = 8

    @property
    def inputs(self) -> int:
        """Inputs of the first layer."""
        return self.channels + 2 * self.relative_coordinates

    @property
    def num_weights(self) -> int:
        """Weights of all layers; multiply-adds per cell."""
        D = self.hidden_width
        return D * self.inputs + (self.num_layers - 2) * D * D + D

    @property
    def num_params(self) -> int:
        """G: weights of all layers, then biases of all layers."""
        return self.num_weights + self.hidden_width * (self.num_layers - 1) + 1

    def layers(self) -> Iterator[tuple[slice, slice, int, int]]:
        """Per layer: where its weights and its biases are among the G, outputs, inputs."""
        weight, bias, inputs = 0, self.num_weights, self.inputs
        for layer in range(self.num_layers):
            outputs = 1 if layer == self.num_layers - 1 else self.hidden_width
            yield (
                slice(weight, weight + outputs * inputs),
                slice(bias, bias + outputs),
                outputs,
                inputs,
            )
            weight, bias, inputs = weight + outputs * inputs, bias + outputs, outputs

    def without_upsampling(self) -> MaskHeadConfig:
        """The same network, whose results are the logits of the cells."""
        return replace(self, upsample=1)

    def describe_params(self) -> str:
        """How G comes about, for messages: `169 = 8*10 + 8*8 + 1*8 weights + 8 + 8 + 1 biases`."""
        sizes = [(outputs, inputs) for _, _, outputs, inputs in self.layers()]
        weights = " + ".join(f"{outputs}*{inputs}" for outputs, inputs in sizes)
        biases = " + ".join(str(outputs) for outputs, _ in sizes)
        return f"{self.num_params} = {weights} weights + {biases} biases"


def in_dtypes(
    grads: Sequence[Tensor | None], inputs: MaskHeadInputs, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of features, params and references in their dtypes; None where not asked for."""
    is_needed = (needs[0], needs[1], needs[1])
    features, params, references = (
        g.to(t.dtype) if needed and g is not None else None
        for g, t, needed in zip(grads, inputs[:3], is_needed, strict=True)
    )
    return features, params, references


def check_head(inputs: MaskHeadInputs, head: MaskHeadConfig) -> None:
    """Shapes, types and devices; nothing that would have to wait for a device.

    Args:
        inputs: as a caller gives them: references may be None.

    Raises: ValueError naming the argument, what was given and what is needed.
    """
    if not is_compiling() and _fits(inputs, head):
        return
    mask_features, mask_params, reference_points, clip_index = inputs
    if mask_features.dim() != 5:
        raise ValueError(
            f"mask_features must be [B, T, C, h, w], got shape {list(mask_features.shape)}"
        )
    for name, value, choices in (
        ("hidden_width", head.hidden_width, HIDDEN_WIDTHS),
        ("num_layers", head.num_layers, LAYER_COUNTS),
        ("upsample", head.upsample, UPSAMPLE_FACTORS),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {list(choices)}, got {value}")
    if head.stride < 1:
        raise ValueError(f"mask_stride must be a positive number of pixels, got {head.stride}")
    _, T, _, h, w = mask_features.shape
    if 0 in (T, h, w, head.channels):
        raise ValueError(
            f"mask_features must hold frames, channels and cells, got {list(mask_features.shape)}"
        )
    if mask_params.dim() != 2 or mask_params.shape[1] != head.num_params:
        raise ValueError(
            f"mask_params must be [N, {head.num_params}] for mask_features "
            f"{list(mask_features.shape)} ({head.describe_params()}), got {list(mask_params.shape)}"
        )
    N = mask_params.shape[0]
    if reference_points is None:
        if head.relative_coordinates:
            raise ValueError(
                "reference_points are missing; without them, relative_coordinates=False"
            )
    elif list(reference_points.shape) != [N, T, 2]:
        raise ValueError(
            f"reference_points must be [N, T, 2] = {[N, T, 2]}, got {list(reference_points.shape)}"
        )
    if list(clip_index.shape) != [N] or clip_index.dtype not in _INTEGERS:
        raise ValueError(
            f"clip_index must be [N] = [{N}] integers (int64 or int32), got "
            f"{list(clip_index.shape)} of {clip_index.dtype}"
        )
    for name, tensor in (
        ("mask_features", mask_features),
        ("mask_params", mask_params),
        ("reference_points", reference_points),
        ("clip_index", clip_index),
    ):
        if tensor is None:
            continue
        if name != "clip_index" and not tensor.is_floating_point():
            raise ValueError(f"{name} must be a floating-point tensor, got {tensor.dtype}")
        if tensor.device != mask_features.device:
            raise ValueError(
                f"{name} is on {tensor.device} but mask_features is on {mask_features.device}"
            )


def _fits(inputs: MaskHeadInputs, head: MaskHeadConfig) -> bool:
    """Whether all is as it should be; quick, where `check_head` says what is not."""
    features, params, references, clip_index = inputs
    if features.dim() != 5 or params.dim() != 2 or references is None:
        return False
    N, G = params.shape
    T = features.shape[1]
    return (
        type(head.channels) is int  # else a symbol, which has no hash
        and _known_num_params(head) == G
        and 0 not in features.shape[1:]
        and references.shape == (N, T, 2)
        and clip_index.shape == (N,)
        and clip_index.dtype in _INTEGERS
        and features.is_floating_point()
        and params.is_floating_point()
        and references.is_floating_point()
        and features.device == params.device == references.device == clip_index.device
    )


@lru_cache(maxsize=256)
def _known_num_params(head: MaskHeadConfig) -> int | None:
    """G, if there are kernels for such a network."""
    is_known = (
        head.hidden_width in HIDDEN_WIDTHS
        and head.num_layers in LAYER_COUNTS
        and head.upsample in UPSAMPLE_FACTORS
        and head.stride > 0
    )
    return head.num_params if is_known else None


def check_values(inputs: MaskHeadInputs) -> None:
    """What can be said about values where they are at hand: on a CPU. On a GPU, kernels clamp.

    Raises: ValueError for an index without a clip, or references that are not finite.
    """
    num_clips = inputs.features.shape[0]
    check_index("clip_index", inputs.clip_index, num_clips, "clips (mask_features has B)")
    if not _are_values_at_hand(inputs.references):
        return
    known = inputs.references.detach().double().numpy()
    is_finite = abs(known) < math.inf
    if not is_finite.all():
        first = int(is_finite.reshape(len(known), -1).all(1).argmin())
        raise ValueError(
            f"reference_points of instance {first} are not finite: "
            f"{known[first].flatten().tolist()[:6]}; the model has diverged, or the "
            "logit of a reference was taken at 0 or 1"
        )


def check_index(name: str, index: Tensor, length: int, what: str) -> None:
    """The same for an index into `length` things.

    Raises: ValueError for an index out of range.
    """
    if not _are_values_at_hand(index) or index.numel() == 0:
        return
    known = index.numpy()
    low, high = int(known.min()), int(known.max())
    if low < 0 or high >= length:
        raise ValueError(
            f"{name} must be in 0..{length - 1} for {length} {what}, got {low if low < 0 else high}"
        )


def _are_values_at_hand(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and not facts().is_gpu(tensor.device)
