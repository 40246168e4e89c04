"""ResNet and ResNeXt feature extractors with frozen batch norm (He et al. 2016, Xie et al. 2017),
and the small GroupNorm network of the demo. Parameter names follow torchvision's layout.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autograd_state import is_autocast_to_bfloat16
from .memory_efficient import scaled_conv2d


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and affine, `y = x*s + (b - m*s)`, `s = w / sqrt(v + eps)`.

    All four vectors are buffers. It is folded into the convolution before it (`conv_norm`), so no
    pass over the activations is spent on it.
    """

    eps = 1e-5
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self._kept: tuple[list[Tensor], list[int], tuple[Tensor, Tensor]] | None = None

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        """(s, b - m*s), each [C]; computed again only when a buffer has changed."""
        buffers = [self.weight, self.bias, self.running_mean, self.running_var]
        if torch.compiler.is_compiling() or any(b.is_inference() for b in buffers):
            return self._scale_shift()
        versions = [b._version for b in buffers]
        if self._kept is None or not _are_same(self._kept[:2], (buffers, versions)):
            # Made in inference mode, it could not be used in a training step later on.
            with torch.inference_mode(False), torch.no_grad():
                made = self._scale_shift()
            if type(made[0]) is not Tensor:  # while tracing; not to be kept
                return made
            self._kept = buffers, versions, made
        return self._kept[2]

    def _scale_shift(self) -> tuple[Tensor, Tensor]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


def _are_same(kept: tuple[list[Tensor], list[int]], given: tuple[list[Tensor], list[int]]) -> bool:
    """Whether they are the same tensors, unchanged."""
    same_tensors = all(a is b for a, b in zip(kept[0], given[0], strict=True))
    return same_tensors and kept[1] == given[1]


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: FrozenBatchNorm2d | nn.Identity) -> Tensor:
    """Convolution and frozen batch norm as one convolution; exact up to rounding."""
    if isinstance(norm, nn.Identity):  # see `fold_frozen_norms`
        return conv(x)
    scale, shift = norm.scale_shift()
    return scaled_conv2d(x, conv, scale, shift)


@torch.no_grad()
def fold_frozen_norms(model: nn.Module) -> None:
    """Multiply every frozen batch norm into the convolution before it and leave an identity there.

    In place and for inference only: the state dict is no longer the published one.
    """
    for parent in list(model.modules()):
        for norm_name, norm in list(parent.named_children()):
            if not isinstance(norm, FrozenBatchNorm2d):
                continue
            # bn1 follows conv1; in a shortcut, "1" follows "0"
            conv_name = "0" if norm_name == "1" else norm_name.replace("bn", "conv")
            conv = parent.get_submodule(conv_name)
            assert isinstance(conv, nn.Conv2d)
            scale, shift = norm.scale_shift()
            conv.weight = nn.Parameter(
                conv.weight * scale[:, None, None, None], requires_grad=False
            )
            conv.bias = nn.Parameter(shift, requires_grad=False)
            setattr(parent, norm_name, nn.Identity())


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1, around a shortcut."""

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, groups: int, project: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), FrozenBatchNorm2d(outputs)
            )
            if project
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, ceil(h/stride), ceil(w/stride)]."""
        shortcut = x if self.downsample is None else conv_norm(x, *self.downsample)
        y = conv_norm(x, self.conv1, self.bn1).relu_()
        y = conv_norm(y, self.conv2, self.bn2).relu_()
        y = conv_norm(y, self.conv3, self.bn3)
        return y.add_(shortcut).relu_()


class ResNet(nn.Module):
    """Four stages at strides 4, 8, 16, 32. Stem and first stage are not trained, as published.

    Args:
        depths: blocks per stage.
        groups: groups of the 3x3 convolutions (ResNeXt: 32).
        base_width: width of a group in the first stage (ResNeXt 32x8d: 8).
    """

    channels = (256, 512, 1024, 2048)
    strides = (4, 8, 16, 32)

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, depths: tuple[int, ...], groups: int = 1, base_width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = FrozenBatchNorm2d(64)
        inputs = 64
        for stage, depth in enumerate(depths):
            outputs = self.channels[stage]
            width = (outputs // 4) * base_width * groups // 64
            blocks = []
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Bottleneck(inputs, width, outputs, stride, groups, block == 0))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(("layer2.", "layer3.", "layer4.")))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[n, 3, H, W] -> four maps [n, C_i, ceil(H/s_i), ceil(W/s_i)] at strides 4, 8, 16, 32."""
        x = self._stem(x)
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps

    def _stem(self, x: Tensor) -> Tensor:
        # In another layout oneDNN spends more time on bringing maps into that one than on products.
        is_last = is_channels_last(x) or is_autocast_to_bfloat16(x.device.type)
        layout = torch.channels_last if is_last else torch.contiguous_format
        if x.device.type == "cpu":  # three channels fill no vector unless they are innermost
            x = x.contiguous(memory_format=torch.channels_last)
        x = conv_norm(x, self.conv1, self.bn1).relu_()
        return F.max_pool2d(x, 3, 2, 1).contiguous(memory_format=layout)


def is_channels_last(x: Tensor) -> bool:
    """Whether channels are innermost in memory."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


class MiniBlock(nn.Module):
    """Two 3x3 convolutions with GroupNorm around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.project = None
        if stride != 1 or inputs != outputs:
            self.project = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, h, w] -> [n, C', h / stride, w / stride]."""
        shortcut = x if self.project is None else self.project(x)
        y = self.norm1(self.conv1(x)).relu_()
        return (self.norm2(self.conv2(y)) + shortcut).relu_()


class ResNetMini(nn.Module):
    """A quarter-million-parameter network for training from scratch on a CPU.

    Its maps are at strides 2, 4, 8, 16, so the model's finest level (and the mask features) are at
    stride 4: small objects in small frames keep enough cells.
    """

    channels = (16, 32, 64, 128)
    strides = (2, 4, 8, 16)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, 2, 2, bias=False)
        self.norm = nn.GroupNorm(8, 16)
        self.stages = nn.ModuleList(
            MiniBlock(inputs, outputs, 2)
            for inputs, outputs in zip(self.channels[:-1], self.channels[1:], strict=True)
        )
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """[n, 3, H, W] -> four maps at strides 2, 4, 8, 16."""
        maps = [self.norm(self.stem(x)).relu_()]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps
