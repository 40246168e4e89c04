"""Clip-level Hungarian assignment of queries to instances, all decoder layers at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..boxes import cxcywh_to_xyxy, generalized_box_iou
from ..config import LossConfig
from ..devices import HostCopy, to_device
from ..structures import ClipTargets


@dataclass
class Matches:
    """Matched pairs of all layers and clips, in order of layer, clip, query.

    Attributes:
        layer: [N] decoder layer of each pair.
        clip: [N] clip of each pair.
        query: [N] query of each pair.
        target: [N] row in the concatenated targets of the batch.
        host_indices: per layer and clip, (query, target within the clip) as numpy arrays.
    """

    layer: Tensor
    clip: Tensor
    query: Tensor
    target: Tensor
    host_indices: list[list[tuple[np.ndarray, np.ndarray]]]


class HungarianMatcher:
    """cost = box distance + class + generalised IoU, solved per layer and clip with SciPy."""

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    @torch.no_grad()
    def cost(self, class_logits: Tensor, boxes: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Cost of every query for every instance of the batch.

        Args:
            class_logits: [D, B, Q, K].
            boxes: [D, B, T, Q, 4], (cx, cy, w, h).
            labels: [N] output indices.
            targets: [N, T, 4], (cx, cy, w, h); absent frames take part with their 1e-6 boxes.

        Returns: [D, B, Q, N] float32.
        """
        config = self.config
        prob = class_logits.float().sigmoid()[..., labels]  # [D, B, Q, N]
        alpha, gamma = config.focal_alpha, config.focal_gamma
        negative = (1 - alpha) * prob**gamma * -(1 - prob + 1e-8).log()
        positive = alpha * (1 - prob) ** gamma * -(prob + 1e-8).log()
        class_cost = positive - negative

        boxes = rearrange(boxes.float(), "d b t q xywh -> d b q t xywh")
        # parity: the paper says L1; the published code takes the Euclidean distance over the clip.
        box_cost = torch.cdist(
            rearrange(boxes, "d b q t xywh -> (d b q) (t xywh)"),
            rearrange(targets, "n t xywh -> n (t xywh)"),
            compute_mode="donot_use_mm_for_euclid_dist",
        ).view(*class_cost.shape)
        giou = generalized_box_iou(
            cxcywh_to_xyxy(boxes)[:, :, :, None], cxcywh_to_xyxy(targets)
        ).mean(-1)
        return config.cost_box * box_cost + config.cost_class * class_cost - config.cost_giou * giou

    def __call__(self, class_logits: Tensor, boxes: Tensor, targets: list[ClipTargets]) -> Matches:
        """Assign at once: `begin` and `Assignment.finish`."""
        return self.begin(class_logits, boxes, targets).finish()

    @torch.no_grad()
    def begin(self, class_logits: Tensor, boxes: Tensor, targets: list[ClipTargets]) -> Assignment:
        """Send the costs of all layers to the host in one copy. Shapes as in `cost`."""
        labels = torch.cat([t["labels"] for t in targets])
        costs = self.cost(class_logits, boxes, labels, torch.cat([t["boxes"] for t in targets]))
        return Assignment(costs, [len(t["labels"]) for t in targets])


class Assignment:
    """Costs on their way to the host, where they are solved."""

    def __init__(self, costs: Tensor, counts: list[int]) -> None:
        """
        Args:
            costs: [D, B, Q, N].
            counts: instances of each clip; their sum is N.
        """
        self._costs, self._counts = costs, counts
        self._copy = HostCopy(costs)

    def finish(self) -> Matches:
        """Wait for the costs and solve.

        Raises: ValueError when predictions are not finite, for which no assignment exists.
        """
        from scipy.optimize import linear_sum_assignment  # losses alone do not need SciPy

        D, B = self._costs.shape[:2]
        (host,) = self._copy.wait()
        if not np.isfinite(host).all():
            raise ValueError(
                "the matching costs are not finite: predictions or targets hold NaN or infinite "
                "numbers; lower the learning rate, or check the boxes of this batch"
            )
        starts = np.concatenate([[0], np.cumsum(self._counts)]).tolist()
        indices = [
            [
                linear_sum_assignment(host[layer, clip, :, starts[clip] : starts[clip + 1]])
                for clip in range(B)
            ]
            for layer in range(D)
        ]
        flat = [
            (
                np.full_like(query, layer),
                np.full_like(query, clip),
                query,
                target + starts[clip],
            )
            for layer, clips in enumerate(indices)
            for clip, (query, target) in enumerate(clips)
        ]
        stacked = np.concatenate([np.stack(columns) for columns in flat], axis=1)
        layer, clip, query, target = to_device(stacked, self._costs, torch.int64)
        return Matches(layer, clip, query, target, indices)
