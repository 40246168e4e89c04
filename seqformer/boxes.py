"""Box formats and overlaps. Boxes are the last axis, four numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(cx, cy, w, h) -> (x0, y0, x1, y1), any leading shape."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(x0, y0, x1, y1) -> (cx, cy, w, h), any leading shape."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def generalized_box_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019) of boxes that broadcast against each other.

    Args:
        a_xyxy: [..., 4].
        b_xyxy: [..., 4], broadcastable with `a_xyxy`; pairwise when given [n, 1, 4] and [1, m, 4].

    Returns: [...], in -1..1. parity: no epsilon in any division, as in the published code.
    """
    area_a = (a_xyxy[..., 2] - a_xyxy[..., 0]) * (a_xyxy[..., 3] - a_xyxy[..., 1])
    area_b = (b_xyxy[..., 2] - b_xyxy[..., 0]) * (b_xyxy[..., 3] - b_xyxy[..., 1])
    overlap = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.maximum(
        a_xyxy[..., :2], b_xyxy[..., :2]
    )
    overlap = overlap.clamp(min=0)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = area_a + area_b - intersection
    hull = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.minimum(
        a_xyxy[..., :2], b_xyxy[..., :2]
    )
    hull_area = hull[..., 0].clamp(min=0) * hull[..., 1].clamp(min=0)
    return intersection / union - (hull_area - union) / hull_area
