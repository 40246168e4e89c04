"""Pure losses. Each returns one number per row; the criterion sums and normalises."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision numbers as float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def sigmoid_focal(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss (Lin et al. 2017), elementwise.

    Args:
        logits: [...], before the sigmoid.
        targets: [...], 0 or 1, same dtype as logits.
        alpha: weight of positives; negatives weigh 1 - alpha.
        gamma: exponent that plays down easy elements.

    Returns: [...].
    """
    prob = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = prob + targets - 2 * prob * targets  # 1 - p_t
    weight = (1 - alpha) + (2 * alpha - 1) * targets
    return weight * cross_entropy * miss**gamma


def dice(overlap: Tensor, area: Tensor, target_area: Tensor) -> Tensor:
    """`1 - (2 sum(p t) + 1) / (sum p + sum t + 1)` from the three sums, [N] each."""
    return 1 - (2 * overlap + 1) / (area + target_area + 1)


def scatter_one_hot(shape: torch.Size, index: tuple[Tensor, ...], like: Tensor) -> Tensor:
    """Zeros of `shape` with ones at `index`, in the dtype and on the device of `like`."""
    return like.new_zeros(shape).index_put_(index, like.new_ones(()))
