"""What the mask losses take besides the tensors of the head."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LossTargets(NamedTuple):
    """Targets of a call and settings of the focal loss, checked.

    Attributes:
        masks: [M, T, H, W] bool or uint8.
        index: [N], which of the M an instance has.
        stride: pixels of a target per pixel of the logits, along an axis.
        alpha, gamma: of the focal loss.
    """

    masks: Tensor
    index: Tensor  # type: ignore[assignment] # in the place of tuple.index
    stride: int
    alpha: float
    gamma: float
