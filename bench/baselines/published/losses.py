"""Assignment and losses of one decoder layer, as the published code computes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqformer.boxes import cxcywh_to_xyxy, generalized_box_iou
from seqformer.config import LossConfig
from seqformer.criterion.losses import sigmoid_focal
from seqformer.structures import ClipTargets

ClipMatch = tuple[Tensor, Tensor]
"""(query, instance) of the matched pairs of a clip, both [n]."""


@dataclass
class Prediction:
    """One layer: class_logits [B, Q, K], boxes [B, T, Q, 4], mask_params [B, Q, G],
    points [B, T, Q, 2] in 0..1."""

    class_logits: Tensor
    boxes: Tensor
    mask_params: Tensor
    points: Tensor


def losses_by_layer(
    config: LossConfig,
    layers: list[tuple[Prediction, list[ClipMatch], tuple[Tensor, ...]]],
    targets: list[ClipTargets],
    mask_stride: int,
) -> dict[str, Tensor]:
    """All losses under their published names.

    Args:
        layers: of the decoder, first to last: predictions, matches, and per clip the logits
            [n, T, h4, w4] of the matched masks.
        targets: one per clip.
        mask_stride: pixels per cell of the mask features.
    """
    num_instances = max(sum(len(t["labels"]) for t in targets), 1)
    losses = {}
    last = len(layers) - 1
    for layer in (last, *range(last)):
        prediction, matches, masks = layers[layer]
        found = layer_losses(config, prediction, matches, masks, targets, mask_stride)
        suffix = "" if layer == last else f"_{layer}"
        losses |= {f"{k}{suffix}": v / num_instances for k, v in found.items()}
        logs = log_values(prediction.class_logits, matches, targets)
        losses[f"cardinality_error{suffix}"] = logs["cardinality_error"]
        if layer == last:
            losses["class_error"] = logs["class_error"]
    return losses


@torch.no_grad()
def match(
    config: LossConfig, class_logits: Tensor, boxes: Tensor, targets: list[ClipTargets]
) -> list[ClipMatch]:
    """Assignment of one layer; class_logits [B, Q, K], boxes [B, T, Q, 4]."""
    from scipy.optimize import linear_sum_assignment  # not there on a bare machine

    B, T, Q, _ = boxes.shape
    labels = torch.cat([t["labels"] for t in targets])
    wanted = torch.cat([t["boxes"] for t in targets])  # [N, T, 4]
    prob = class_logits.flatten(0, 1).sigmoid()  # [B*Q, K]
    alpha, gamma = config.focal_alpha, config.focal_gamma
    negative = (1 - alpha) * prob**gamma * -(1 - prob + 1e-8).log()
    positive = alpha * (1 - prob) ** gamma * -(prob + 1e-8).log()
    class_cost = positive[:, labels] - negative[:, labels]
    tracks = boxes.transpose(1, 2).flatten(0, 1)  # [B*Q, T, 4]
    box_cost = torch.cdist(tracks.flatten(1), wanted.flatten(1))
    overlap = torch.zeros_like(class_cost)
    for t in range(T):
        overlap += generalized_box_iou(
            cxcywh_to_xyxy(tracks[:, None, t]), cxcywh_to_xyxy(wanted[None, :, t])
        )
    cost = config.cost_box * box_cost + config.cost_class * class_cost
    cost = (cost - config.cost_giou * (overlap / T)).view(B, Q, -1).cpu()
    counts = [len(t["labels"]) for t in targets]
    pairs = [linear_sum_assignment(part[b]) for b, part in enumerate(cost.split(counts, dim=2))]
    return [
        tuple(torch.from_numpy(np.asarray(index)).to(boxes.device) for index in pair)
        for pair in pairs
    ]


def layer_losses(
    config: LossConfig,
    prediction: Prediction,
    matches: list[ClipMatch],
    masks: tuple[Tensor, ...],
    targets: list[ClipTargets],
    mask_stride: int,
) -> dict[str, Tensor]:
    """Sums over the instances of one layer, not yet normalised."""
    logits, boxes = prediction.class_logits, prediction.boxes
    B, Q, K = logits.shape
    T = boxes.shape[1]
    clip = torch.cat([torch.full_like(query, b) for b, (query, _) in enumerate(matches)])
    query = torch.cat([query for query, _ in matches])

    classes = torch.full((B, Q), K, device=logits.device)
    classes[clip, query] = torch.cat(
        [t["labels"][chosen] for t, (_, chosen) in zip(targets, matches, strict=True)]
    )
    one_hot = logits.new_zeros(B, Q, K + 1).scatter_(2, classes[..., None], 1)[..., :-1]
    class_loss = sigmoid_focal(logits, one_hot, config.focal_alpha, config.focal_gamma)

    matched = boxes.transpose(1, 2)[clip, query]  # [N, T, 4]
    wanted = torch.cat(
        [t["boxes"][chosen] for t, (_, chosen) in zip(targets, matches, strict=True)]
    )
    giou_loss = boxes.new_zeros(())
    for t in range(T):
        pairwise = generalized_box_iou(
            cxcywh_to_xyxy(matched[:, None, t]), cxcywh_to_xyxy(wanted[None, :, t])
        )
        giou_loss = giou_loss + (1 - pairwise.diagonal()).sum() / T

    mask_logits = torch.cat(masks)
    mask_targets = _mask_targets(targets, matches, mask_logits.shape[-2:], mask_stride // 2)
    mask_logits, mask_targets = mask_logits.flatten(1), mask_targets.flatten(1)
    focal = sigmoid_focal(mask_logits, mask_targets, config.focal_alpha, config.focal_gamma)
    return {
        "loss_ce": class_loss.mean(1).sum() * Q,
        "loss_bbox": (matched - wanted).abs().sum() / T,
        "loss_giou": giou_loss,
        "loss_mask": focal.mean(1).sum(),
        "loss_dice": _dice(mask_logits, mask_targets).sum(),
    }


def _dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Per row; logits, targets: [N, pixels]."""
    prob = logits.sigmoid()
    overlap = (prob * targets).sum(1)
    return 1 - (2 * overlap + 1) / (prob.sum(1) + targets.sum(1) + 1)


def _mask_targets(
    targets: list[ClipTargets], matches: list[ClipMatch], size: torch.Size, stride: int
) -> Tensor:
    """Matched target masks at the mask stride, [N, T, *size]: all are padded to a common size, made
    float, subsampled and then gathered."""
    H, W = (n * stride for n in size)
    flat = [t["masks"].flatten(0, 1) for t in targets]
    padded = torch.zeros(len(flat), max(map(len, flat)), H, W, dtype=torch.bool).to(flat[0].device)
    for masks, place in zip(flat, padded, strict=True):
        place[: masks.shape[0], : masks.shape[1], : masks.shape[2]].copy_(masks)
    sampled = padded.float()[:, :, stride // 2 :: stride, stride // 2 :: stride]
    return torch.cat(
        [
            place[: len(masks)].unflatten(0, target["masks"].shape[:2])[chosen]
            for place, masks, target, (_, chosen) in zip(
                sampled, flat, targets, matches, strict=True
            )
        ]
    )


@torch.no_grad()
def log_values(
    class_logits: Tensor, matches: list[ClipMatch], targets: list[ClipTargets]
) -> dict[str, Tensor]:
    """Class and cardinality error of one layer; class_logits [B, Q, K]."""
    best = class_logits.argmax(-1)  # [B, Q]
    correct = torch.cat(
        [
            best[b, query] == target["labels"][chosen]
            for b, (target, (query, chosen)) in enumerate(zip(targets, matches, strict=True))
        ]
    )
    counted = (best != class_logits.shape[-1] - 1).sum(1).float()
    wanted = counted.new_tensor([len(t["labels"]) for t in targets])
    return {
        "class_error": 100 - 100 * correct.float().sum() / max(len(correct), 1),
        "cardinality_error": (counted - wanted).abs().mean(),
    }
