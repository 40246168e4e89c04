"""Convolutions for inference on a CPU: weights packed once, channels innermost, ReLU and sum fused.

oneDNN multiplies in blocks. `F.conv2d` brings weights into that layout in every call, and maps too
unless their channels are innermost; in bf16 both cost more than the products. Here the weight is
packed once per model, maps stay channels last, and bias, residual sum and ReLU belong to the
product, so that no pass over a map is spent on them.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from .masks import MaskBranch
from .resnet import Bottleneck, ResNet

_OPERATORS = (
    *("_reorder_convolution_weight", "_convolution_pointwise", "_convolution_pointwise_"),
    "_is_mkldnn_bf16_supported",
)
HAS_PACKING = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in _OPERATORS
)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether packing pays here: in bfloat16, where oneDNN has it. In float32 products take so much
    longer than bringing things into order that packed ones were no faster."""
    if not HAS_PACKING or dtype != torch.bfloat16 or not torch.backends.mkldnn.enabled:
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class PackedConv2d(nn.Module):
    """An `nn.Conv2d`, with `relu` its ReLU too.

    Args:
        conv: on the CPU, with zero padding; float32 or bfloat16.
        relu: clamp the result below at 0.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool = False) -> None:
        super().__init__()
        assert isinstance(conv.padding, tuple) and conv.padding_mode == "zeros"
        self._geometry = (
            *(list(conv.padding), list(conv.stride), list(conv.dilation)),
            conv.groups,
        )
        self._relu = "relu" if relu else "none"
        with torch.no_grad():
            weight = conv.weight.detach()
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._geometry)
            bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, h, w] -> [n, O, h', w'], channels last."""
        return torch.ops.mkldnn._convolution_pointwise(
            _channels_last(x), self._weight, self.bias, *self._geometry, self._relu, [], ""
        )

    def add_to(self, other: Tensor, x: Tensor) -> Tensor:
        """`relu(other + conv(x))`, written into `other` [n, O, h', w'], channels last."""
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            *(other, _channels_last(x), self._weight, self.bias, *self._geometry),
            *("add", 1.0, "relu", [], ""),
        )


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class PackedBottleneck(nn.Module):
    """A `Bottleneck` whose norms are folded. Its input may be overwritten."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1 = PackedConv2d(block.conv1, relu=True)
        self.conv2 = PackedConv2d(block.conv2, relu=True)
        self.conv3 = PackedConv2d(block.conv3)
        self.downsample = None
        if block.downsample is not None:
            conv = block.downsample[0]
            assert isinstance(conv, nn.Conv2d)
            self.downsample = PackedConv2d(conv)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, h', w'], channels last."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.conv3.add_to(shortcut, self.conv2(self.conv1(x)))


class PackedResNet(nn.Module):
    """A `ResNet` whose norms are folded."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.conv1 = PackedConv2d(resnet.conv1, relu=True)
        stages = (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
        # The first block of a stage has a projection, so no block overwrites a stage's result.
        self.stages = nn.ModuleList(nn.Sequential(*map(_packed_block, stage)) for stage in stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """As `ResNet.forward`; maps are channels last."""
        x = F.max_pool2d(self.conv1(x), 3, 2, 1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def _packed_block(block: nn.Module) -> PackedBottleneck:
    assert isinstance(block, Bottleneck)
    return PackedBottleneck(block)


class PackedMaskBranch(nn.Module):
    """A `MaskBranch`."""

    def __init__(self, branch: MaskBranch) -> None:
        super().__init__()
        self.lay1 = PackedConv2d(branch.lay1, relu=True)
        self.lay2 = PackedConv2d(branch.lay2, relu=True)
        self.lay3 = PackedConv2d(branch.lay3, relu=True)
        self.lay4 = PackedConv2d(branch.lay4, relu=True)
        self.dcn = PackedConv2d(branch.dcn, relu=True)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        """As `MaskBranch.forward`; the result is channels last."""
        x = self.lay3(coarse)
        x = self.lay4(F.interpolate(x, size=middle.shape[-2:]).add_(middle))
        x = self.dcn(F.interpolate(x, size=fine.shape[-2:]).add_(fine))
        return self.lay2(self.lay1(x))


def pack_convolutions(model: nn.Module) -> None:
    """Replace every convolution of a model by a packed one. In place, for inference on a CPU.

    Args:
        model: with its frozen norms folded, in a type that `can_pack` knows.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ResNet):
                setattr(parent, name, PackedResNet(child))
            elif isinstance(child, MaskBranch):
                setattr(parent, name, PackedMaskBranch(child))
            elif isinstance(child, nn.Conv2d) and child.padding_mode == "zeros":
                setattr(parent, name, PackedConv2d(child))


def _flops(x: Any, weight: Any, out_shape: Any) -> int:
    """Of a convolution: 2 per product; the weight's shape is [O, C / groups, k, k]."""
    return 2 * prod(out_shape) * prod(weight[1:])


def _conv_flops(x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return _flops(x, weight, out_shape)


def _conv_add_flops(
    other: Any, x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    return _flops(x, weight, out_shape)


def _register(formulas: Iterable[tuple[Any, Any]]) -> None:
    for operator, formula in formulas:
        register_flop_formula(operator)(formula)


if HAS_PACKING:
    _register(
        (
            (torch.ops.mkldnn._convolution_pointwise, _conv_flops),
            (torch.ops.mkldnn._convolution_pointwise_, _conv_add_flops),
        )
    )
