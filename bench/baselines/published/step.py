"""A training step and inference in the published formulation."""

from __future__ import annotations

import torch
from torch import Tensor

from seqformer.config import LossConfig
from seqformer.model import SeqFormer
from seqformer.model.decoder import inverse_sigmoid
from seqformer.structures import ClipTargets

from .losses import Prediction, losses_by_layer, match
from .masks import masks_of_frames
from .transformer import Stages, refine, transform


def published_training_losses(
    model: SeqFormer,
    images: Tensor,
    padding_mask: Tensor | None,
    targets: list[ClipTargets],
) -> dict[str, Tensor]:
    """What `seqformer.criterion.training_losses` returns, the published way.

    Args:
        model: its configuration must have no dropout, which would be drawn in another order.
        images: [B, T, 3, H, W] normalised, zero where padded.
        padding_mask: [B, H, W] bool, True on padding, or None.
        targets: one per clip.

    Raises: ValueError when the model has dropout.
    """
    check_deterministic(model)
    stages = transform(model, images, padding_mask)
    config = LossConfig()
    # The reference is scaled by the clip's own size, before padding.
    sizes = [images.new_tensor([t["size"][1], t["size"][0]]) for t in targets]
    clips = range(images.shape[0])
    layers = []
    for layer in range(len(stages.instances)):
        prediction = _heads(model, stages, layer)
        matches = match(config, prediction.class_logits, prediction.boxes, targets)
        counts = [len(query) for query, _ in matches]
        params = torch.cat([prediction.mask_params[b, matches[b][0]] for b in clips])
        points_px = torch.cat(
            [prediction.points[b][:, matches[b][0]] * sizes[b] for b in clips], dim=1
        )  # [T, N, 2]
        masks = masks_of_frames(
            model.mask_branch, stages.memory, stages.shapes, params, points_px, counts,
            model.mask_stride,
        )  # fmt: skip
        layers.append((prediction, matches, masks.split(counts)))
    return losses_by_layer(config, layers, targets, model.mask_stride)


@torch.no_grad()
def published_inference(model: SeqFormer, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All queries of one video, masks included, in all layers; the last layer is returned.

    Args:
        model: without dropout or in evaluation mode.
        images: [1, T, 3, H, W] normalised.

    Returns: class_logits [Q, K], boxes [T, Q, 4] and mask logits [Q, T, h4, w4].
    """
    check_deterministic(model)
    H, W = images.shape[-2:]
    stages = transform(model, images, None)
    layers = []
    for layer in range(len(stages.instances)):
        prediction = _heads(model, stages, layer)
        points_px = prediction.points[0] * images.new_tensor([W, H])  # [T, Q, 2]
        params = prediction.mask_params[0]
        masks = masks_of_frames(
            model.mask_branch, stages.memory, stages.shapes, params, points_px, [len(params)],
            model.mask_stride,
        )  # fmt: skip
        layers.append((prediction.class_logits[0], prediction.boxes[0], masks))
    return layers[-1]


def check_deterministic(model: SeqFormer) -> None:
    if model.training and (model.config.dropout or model.config.drop_path):
        raise ValueError(
            f"the published formulation is compared without dropout, but the model has dropout "
            f"{model.config.dropout} and drop_path {model.config.drop_path}; build it with 0"
        )


def _heads(model: SeqFormer, stages: Stages, layer: int) -> Prediction:
    prior = inverse_sigmoid(stages.references[layer])
    instance = stages.instances[layer]
    return Prediction(
        class_logits=model.class_embed[layer](instance),
        boxes=refine(model.decoder.bbox_embed[layer](stages.boxes[layer]), prior),
        mask_params=model.controller(instance),
        points=prior[..., :2].sigmoid(),
    )
