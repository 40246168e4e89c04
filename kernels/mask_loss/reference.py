"""The mask losses in plain PyTorch: the definition. Arguments are checked already.

Contract and letters: `__init__.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mask_head.reference import dynamic_mask_head
from ..mask_head.spec import MaskHead


def dynamic_mask_loss(
    mask_features: Tensor,
    mask_params: Tensor,
    reference_points: Tensor,
    clip_index: Tensor,
    targets: Tensor,
    target_index: Tensor,
    head: MaskHead,
    target_stride: int,
    alpha: float,
    gamma: float,
) -> Tensor:
    """[N, 4]: sums of the focal loss, p * t, p and t, over the pixels of each instance."""
    logits = dynamic_mask_head(mask_features, mask_params, reference_points, clip_index, head)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(2)
    height, width = (head.upsample * n for n in mask_features.shape[-2:])
    every = slice(target_stride // 2, None, target_stride)
    target = targets[:, :, every, every] != 0
    target = F.pad(target, (0, width - target.shape[3], 0, height - target.shape[2]))
    target = target[target_index].flatten(2).to(logits.dtype)
    prob = logits.sigmoid()
    cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    miss = prob + target - 2 * prob * target  # 1 - p_t
    focal = ((1 - alpha) + (2 * alpha - 1) * target) * cost * miss**gamma
    return torch.stack([x.sum((1, 2)) for x in (focal, prob * target, prob, target)], dim=1)
