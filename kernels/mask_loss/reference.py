"""The mask losses in plain PyTorch: the definition. Arguments are checked already.

Contract and letters: `__init__.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mask_head.inputs import MaskHeadConfig, MaskHeadInputs
from ..mask_head.reference import dynamic_mask_head
from .inputs import LossTargets


def dynamic_mask_loss(inputs: MaskHeadInputs, head: MaskHeadConfig, given: LossTargets) -> Tensor:
    """[N, 4]: sums of the focal loss, p * t, p and t, over the pixels of each instance."""
    logits = dynamic_mask_head(inputs, head)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(2)
    height, width = (head.upsample * n for n in inputs.features.shape[-2:])
    every = slice(given.stride // 2, None, given.stride)
    target = given.masks[:, :, every, every] != 0
    target = F.pad(target, (0, width - target.shape[3], 0, height - target.shape[2]))
    target = target[given.index].flatten(2).to(logits.dtype)
    prob = logits.sigmoid()
    cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    miss = prob + target - 2 * prob * target  # 1 - p_t
    alpha = given.alpha
    focal = ((1 - alpha) + (2 * alpha - 1) * target) * cost * miss**given.gamma
    return torch.stack([x.sum((1, 2)) for x in (focal, prob * target, prob, target)], dim=1)
