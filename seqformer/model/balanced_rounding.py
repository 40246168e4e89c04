"""Weights in bfloat16 whose rows keep their sum.

To the nearest, a row of n weights comes out off by some sqrt(n) / 4 of a last place in sum. What
follows a ReLU has a mean, and the row's error times it moves the output by the same amount
everywhere, for which nothing in the sums over a row makes up. So the weights nearest to the middle
between two bfloat16 numbers go to the other one, as many as it takes. The squared error grows by
less than a hundredth; it costs nothing when the model runs. The idea is that of bias correction
(Nagel et al. 2019, arXiv:1906.04721), without data and without a bias.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 2.0**-120


def to_bfloat16(weight: Tensor) -> Tensor:
    """A weight in bfloat16, every number one of the two neighbours of its own.

    Args:
        weight: [O, ...] float; with one axis or none, rounded to the nearest.

    Returns: [O, ...] bfloat16, in which the sum over every output's weights is that of `weight` to
    about a last place of one of them.
    """
    if weight.dim() < 2 or weight.numel() == 0:
        return weight.to(torch.bfloat16)
    rows = weight.detach().float().flatten(1)
    nearest = rows.to(torch.bfloat16)
    error = rows - nearest
    of_row = error.sum(1, keepdim=True)
    scale = (
        (rows.view(torch.int32) & 0x7F800000).view(torch.float32).clamp_(min=_TINY)
    )  # 2^exponent
    candidates = min(rows.shape[1], int(2 * rows.shape[1] ** 0.5) + 1)
    share, place = (error / scale).mul_(of_row.sign()).topk(candidates, dim=1)

    first = nearest.gather(1, place)
    other = _neighbour(first, error.gather(1, place) > 0)
    may_change = (share > 0) & (first != 0) & other.isfinite()
    step = torch.where(may_change, other.double() - first.double(), 0)
    # Not `cumsum`, which has no deterministic form on a GPU.
    total = step @ torch.ones_like(step[:1]).expand(candidates, -1).triu()
    left = torch.cat([of_row, of_row - total], 1).abs()  # after no change, one, two, ...
    order = torch.arange(candidates, device=rows.device)
    changes = may_change & (order < left.argmin(1, keepdim=True))
    return nearest.scatter(1, place, torch.where(changes, other, first)).view(weight.shape)


def _neighbour(x: Tensor, is_above: Tensor) -> Tensor:
    """The next bfloat16 above where `is_above`, else below; not of zero."""
    bits = x.view(torch.int16)  # sign and magnitude
    return torch.where(is_above == (x > 0), bits + 1, bits - 1).view(torch.bfloat16)
