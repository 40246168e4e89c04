"""Convolutions for inference on a CPU: weights packed once, channels innermost, ReLU and sum fused.

oneDNN multiplies in blocks. `F.conv2d` brings weights into that layout in every call, and maps too
unless their channels are innermost; in bf16 both cost more than the products. Here the weight is
packed once per model, maps stay channels last, and bias, residual sum and ReLU belong to the
product, so that no pass over a map is spent on them. In float32 products are split
(`kernels/split_product`) where the CPU has AMX; without it nothing would be gained.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from .._kernels import kernels
from .linear import SPLIT_CHANNELS
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
    """Whether packing pays here: in bfloat16 where oneDNN has it, in float32 where the CPU has AMX.
    Without AMX float32 products take so much longer than bringing things into order that packed
    ones are no faster."""
    if dtype == torch.float32:
        return kernels.split_product.why_not_available() is None
    if not HAS_PACKING or dtype != torch.bfloat16 or not torch.backends.mkldnn.enabled:
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class PackedConv2d(nn.Module):
    """An `nn.Conv2d` by oneDNN, with `relu` its ReLU too.

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


class SplitConv2d(nn.Module):
    """An `nn.Conv2d` by split products; as `PackedConv2d`.

    Args:
        conv: one that `can_split`.
        relu: clamp the result below at 0.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool = False) -> None:
        super().__init__()
        self._weight = kernels.split_product.split_weight(conv.weight)
        self._stride, self._padding, self._relu = conv.stride[0], int(conv.padding[0]), relu
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, h, w] -> [n, O, h', w'], channels last."""
        geometry = (self._stride, self._padding)
        return kernels.split_product.conv2d(x, self._weight, self.bias, *geometry, self._relu)

    def add_to(self, other: Tensor, x: Tensor) -> Tensor:
        """`relu(other + conv(x))`, written into `other` [n, O, h', w'], channels last."""
        geometry = (self._stride, self._padding)
        return kernels.split_product.conv2d(x, self._weight, self.bias, *geometry, True, other)


class PlainConv2d(nn.Module):
    """An `nn.Conv2d` that is neither packed nor split; as `PackedConv2d`."""

    def __init__(self, conv: nn.Conv2d, relu: bool = False) -> None:
        super().__init__()
        self._conv, self._relu = conv, relu

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, h, w] -> [n, O, h', w'], channels last."""
        result = self._conv(_channels_last(x))
        return result.relu_() if self._relu else result

    def add_to(self, other: Tensor, x: Tensor) -> Tensor:
        """`relu(other + conv(x))`, written into `other` [n, O, h', w']."""
        return other.add_(self._conv(_channels_last(x))).relu_()


def can_split(conv: nn.Conv2d) -> bool:
    """Whether split products can compute a convolution, and pay: not in a narrow 1x1 one."""
    is_plain = conv.groups == 1 and conv.dilation == (1, 1)
    is_even = conv.stride[0] == conv.stride[1] and conv.padding[0] == conv.padding[1]
    if conv.kernel_size == (1, 1) and max(conv.weight.shape) < SPLIT_CHANNELS:
        return False
    return is_plain and is_even and kernels.split_product.fits(conv.weight)


def packed(conv: nn.Module, relu: bool = False) -> PackedConv2d | SplitConv2d | PlainConv2d:
    """The form of a convolution that is fastest in its type, with `relu` with its ReLU."""
    assert isinstance(conv, nn.Conv2d)
    if conv.weight.dtype != torch.float32:
        return PackedConv2d(conv, relu)
    return SplitConv2d(conv, relu) if can_split(conv) else PlainConv2d(conv, relu)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class PackedBottleneck(nn.Module):
    """A `Bottleneck` whose norms are folded. Its input may be overwritten."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1 = packed(block.conv1, relu=True)
        self.conv2 = packed(block.conv2, relu=True)
        self.conv3 = packed(block.conv3)
        self.downsample = None
        if block.downsample is not None:
            self.downsample = packed(block.downsample[0])

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, h', w'], channels last."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.conv3.add_to(shortcut, self.conv2(self.conv1(x)))


class PackedResNet(nn.Module):
    """A `ResNet` whose norms are folded."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.conv1 = packed(resnet.conv1, relu=True)
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
        self.lay1 = packed(branch.lay1, relu=True)
        self.lay2 = packed(branch.lay2, relu=True)
        self.lay3 = packed(branch.lay3, relu=True)
        self.lay4 = packed(branch.lay4, relu=True)
        self.dcn = packed(branch.dcn, relu=True)

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
                setattr(parent, name, packed(child))


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
