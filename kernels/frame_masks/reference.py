"""Masks at the size of the frame in plain PyTorch: the definition. Letters as in `__init__.py`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 1 << 22
"""Pixels that the plain path interpolates at once."""


def threshold_masks(logits: Tensor, height: int, width: int) -> Tensor:
    """[M, h, w] -> uint8 [M, W, H]."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    chunks = [
        F.interpolate(chunk[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
        > 0
        for chunk in wide.split(max(1, _CHUNK // (height * width)))
    ]
    return torch.cat(chunks).transpose(1, 2).contiguous().view(torch.uint8)


def pack_columns(masks: Tensor) -> Tensor:
    """uint8 [..., W, H] of 0 and 1 -> eight rows a byte, the uppermost in the lowest bit."""
    masks = F.pad(masks, (0, -masks.shape[-1] % 8)).unflatten(-1, (-1, 8))
    bits = torch.arange(8, device=masks.device, dtype=torch.uint8)
    return (masks << bits).sum(-1, dtype=torch.uint8)
