"""Padding: the mask of a clip at a level, and how much of the level it leaves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def level_mask(padding_mask: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, H, W] bool -> [B, h, w] bool by nearest sampling, source index floor(i * H / h)."""
    return F.interpolate(padding_mask[:, None].float(), size=size)[:, 0].bool()


def valid_shape(padding_mask: Tensor) -> Tensor:
    """[B, h, w] -> [B, 2] int32, (height, width) of the part that is not padding, by the first
    column and the first row."""
    height = (~padding_mask[:, :, 0]).sum(1)
    width = (~padding_mask[:, 0, :]).sum(1)
    return torch.stack([height, width], dim=-1).to(torch.int32)


def valid_ratio(padding_mask: Tensor) -> Tensor:
    """[B, h, w] -> [B, 2], (x, y): valid share of the first row and of the first column."""
    _, h, w = padding_mask.shape
    valid_h, valid_w = valid_shape(padding_mask).unbind(-1)
    return torch.stack([valid_w.float() / w, valid_h.float() / h], dim=-1)


def is_rectangle(padding_mask: Tensor) -> bool:
    """Whether what is not padding in [B, h, w] is a rectangle at the top left of every clip. On the
    CPU only."""
    valid = ~padding_mask.numpy()
    rows, columns = valid[:, :, 0], valid[:, 0]
    is_product = (valid == rows[:, :, None] & columns[:, None]).all()
    falls = [(side[:, 1:] <= side[:, :-1]).all() for side in (rows, columns)]
    return bool(is_product and all(falls))
