"""Mask losses for CPUs without a C compiler: a few rows of pixels at a time, in cache.

For target t and w = (1 - 2t) * logit: m = sigmoid(w) is the probability of the wrong answer and
c = log(1 + exp(w)) its cross entropy, so all four sums follow from those of t, m, tm, q and tq with
q = c * m ** gamma. Letters as in `mask_head/__init__.py`; f frames and n instances of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mask_head.cpu_torch import (
    Block,
    Scratch,
    backward_blocks,
    blocks,
    upsample_adjoint,
    upsample_into,
)
from ..mask_head.inputs import MaskHeadConfig, MaskHeadInputs
from .inputs import LossTargets

_PIXELS = 1 << 16
"""Pixels of a pass; its few buffers stay in cache."""


def forward(inputs: MaskHeadInputs, head: MaskHeadConfig, given: LossTargets) -> Tensor:
    """Result as `op.forward`."""
    alpha, gamma = given.alpha, given.gamma
    scratch = Scratch(inputs.compute_dtype)
    sums = torch.zeros(inputs.params.shape[0], 4, dtype=scratch.dtype)
    for block in blocks(inputs, head, scratch):
        pixels = _pixels(block, inputs.features.shape, scratch)
        targets = _block_targets(block, given)
        total = torch.zeros(block.f * block.n, 5, dtype=scratch.dtype)
        for logits, target in _passes(pixels, targets, scratch):
            miss, cost = _miss_and_cost(logits, target, scratch)
            cost.mul_(_power(miss, gamma, scratch))
            for i, values in enumerate((target, miss, cost)):
                total[:, i] += values.sum(1)
            for i, values in enumerate((miss, cost)):
                total[:, 3 + i] += torch.bmm(values[:, None], target[..., None])[:, 0, 0]
        area, miss, cost, target_miss, target_cost = (
            total.view(block.f, block.n, 5).sum(0).unbind(1)
        )
        focal = (1 - alpha) * cost + (2 * alpha - 1) * target_cost
        probability = area + miss - 2 * target_miss
        sums[block.rows] += torch.stack([focal, area - target_miss, probability, area], dim=1)
    return sums


def backward(
    grad_sums: Tensor,
    inputs: MaskHeadInputs,
    head: MaskHeadConfig,
    given: LossTargets,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Results as `op.backward`; None where not asked for."""
    alpha, gamma = given.alpha, given.gamma
    scratch = Scratch(inputs.compute_dtype)
    h, w = inputs.features.shape[-2:]

    def gradient(block: Block) -> Tensor:
        pixels = _pixels(block, inputs.features.shape, scratch)
        targets = _block_targets(block, given)
        grads = grad_sums[block.rows].to(scratch.dtype).repeat(block.f, 1)  # [f*n, 4]
        by_focal, by_overlap, by_area = (grads[:, i, None] for i in range(3))
        for logits, target in _passes(pixels, targets, scratch):
            miss, cost = _miss_and_cost(logits, target, scratch)
            slope = torch.sub(1, miss, out=scratch("slope", *miss.shape))
            cost.mul_(slope).mul_(gamma).add_(miss).mul_(_power(miss, gamma, scratch))
            cost.mul_((1 - alpha - target).mul_(by_focal))
            slope.mul_(miss).mul_(target.mul_(by_overlap).add_(by_area))
            logits.copy_(cost.add_(slope))
        return upsample_adjoint(pixels, head.upsample, h, w, scratch)

    return backward_blocks(gradient, inputs, head, scratch, needs)


def _pixels(block: Block, features: Sequence[int], scratch: Scratch) -> Tensor:
    """Logits of the block's pixels, [f, n, F*h, F*w]."""
    h, w = features[-2:]
    factor = block.head.upsample
    pixels = scratch("pixels", block.f, block.n, factor * h, factor * w)
    upsample_into(block.logits().view(block.f, block.n, h, w), pixels, factor, scratch)
    return pixels


def _block_targets(block: Block, given: LossTargets) -> Tensor:
    """[f, n, H, W] views or copies of the targets at the stride of the pixels."""
    every = slice(given.stride // 2, None, given.stride)
    sampled = given.masks[:, block.frames, every, every]
    return sampled[given.index[block.rows]].transpose(0, 1)


def _passes(pixels: Tensor, targets: Tensor, scratch: Scratch) -> Iterator[tuple[Tensor, Tensor]]:
    """Some rows of all masks at a time: logits (a view) and targets, [f*n, pixels]."""
    f, n, height, width = pixels.shape
    rows = max(1, _PIXELS // (f * n * width))
    for a in range(0, height, rows):
        b = min(a + rows, height)
        given = targets[:, :, a:b, :width]
        target = scratch("target", f, n, b - a, width)
        if given.shape == target.shape:
            torch.ne(given, 0, out=target) if given.dtype != torch.bool else target.copy_(given)
        else:
            missing = (0, width - given.shape[3], 0, b - a - given.shape[2])
            target.copy_(F.pad(given != 0, missing))
        yield pixels[:, :, a:b].flatten(2).flatten(0, 1), target.flatten(2).flatten(0, 1)


def _miss_and_cost(logits: Tensor, target: Tensor, scratch: Scratch) -> tuple[Tensor, Tensor]:
    shape = logits.shape
    wrong = torch.mul(target, -2, out=scratch("cost", *shape)).add_(1).mul_(logits)
    miss = torch.sigmoid(wrong, out=scratch("miss", *shape))
    # log(1 + exp(w)), exact where exp(w) is beyond the range of floats
    cost = torch.ops.aten.softplus.out(wrong, 1, 30, out=wrong)
    return miss, cost


def _power(miss: Tensor, gamma: float, scratch: Scratch) -> Tensor:
    if gamma == 1:
        return miss
    return torch.pow(miss, gamma, out=scratch("power", *miss.shape))
