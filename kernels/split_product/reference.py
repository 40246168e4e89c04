"""Splitting in plain PyTorch: the layout of weights, and what they stand for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PARTS, BLOCK = 3, 32


def split(weight: Tensor) -> Tensor:
    """[O, C, k, k] float32 -> [ceil(O / 32), C / 32, k, k, 3, 2, 16, 16, 2] bfloat16."""
    _, C, k, _ = weight.shape
    rest = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, -len(weight) % BLOCK))
    parts = []
    for _ in range(PARTS):
        parts.append(rest.bfloat16())
        rest = rest - parts[-1].float()
    # part, block, half, output, block, pair, of the pair, k, k
    blocks = torch.stack(parts).view(PARTS, -1, 2, 16, C // BLOCK, 16, 2, k, k)
    return blocks.permute(1, 4, 7, 8, 0, 2, 5, 3, 6).contiguous()


def joined(parts: Tensor, outputs: int) -> Tensor:
    """[O, C, k, k] float32: what was split, to the bit."""
    C, k = 32 * parts.shape[1], parts.shape[2]
    sums = parts.float().permute(4, 0, 5, 7, 1, 6, 8, 2, 3).reshape(PARTS, -1, C, k, k)
    return ((sums[2] + sums[1]) + sums[0])[:outputs]


def result_size(x: Tensor, parts: Tensor, stride: int, padding: int) -> tuple[int, int]:
    """H, W of the result of images [n, C, h, w]."""
    h, w = (side + 2 * padding - parts.shape[2] for side in x.shape[-2:])
    return h // stride + 1, w // stride + 1


def forward(
    x: Tensor,
    parts: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    outputs: int,
    stride: int,
    padding: int,
    relu: bool,
) -> Tensor:
    """The definition, with one product for six."""
    result = F.conv2d(x, joined(parts, outputs), bias, stride, padding)
    result = result if other is None else result + other
    return (result.relu_() if relu else result).contiguous(memory_format=torch.channels_last)
