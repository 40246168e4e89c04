"""Our training step and inference as the benchmarks run them beside the published formulation."""

from __future__ import annotations

import torch
from torch import Tensor

from seqformer.config import EvalConfig
from seqformer.criterion import SetCriterion
from seqformer.inference.chunk_size import most_frames
from seqformer.model import SeqFormer, TemporalPool, mask_reference, render_masks
from seqformer.model.decoder import BoxStates
from seqformer.structures import ClipTargets
from seqformer.trainer.precision import Precision

NUM_OUTPUT_QUERIES = EvalConfig().top_k
"""Queries with masks at inference; the most that `Predictor` can output."""


def our_training_losses(
    model: SeqFormer,
    images: Tensor,
    padding_mask: Tensor | None,
    targets: list[ClipTargets],
    criterion: SetCriterion | None = None,
    precision: Precision | None = None,
) -> dict[str, Tensor]:
    """A training step's losses as the trainer computes them.

    Args:
        model, images, padding_mask, targets: as in `seqformer.criterion.training_losses`.
        criterion: default the published one.
        precision: of the forward pass, default float32; for another one the model must have gone
            through `keep_float32_islands`.
    """
    criterion = criterion or SetCriterion()
    if precision is None:
        return criterion(model(images, padding_mask), targets)
    with precision.autocast():
        output = model(images, padding_mask)
    return criterion(output.float(), targets)


@torch.inference_mode()
def our_inference(
    model: SeqFormer,
    images: Tensor,
    num_queries: int = NUM_OUTPUT_QUERIES,
    chunk_frames: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `Predictor` asks of the network: frames in chunks, masks of the best queries only.

    Args:
        model: `inference_copy` of one, or one in evaluation mode.
        images: [1, T, 3, H, W] normalised, in the dtype of the model's backbone.
        num_queries: n, masks to draw.
        chunk_frames: frames that go through together; None takes what `Predictor` takes on a
            machine with memory to spare.

    Returns: class_logits [Q, K], boxes [T, Q, 4], mask logits [n, T, h4, w4] and the queries [n]
        they belong to.
    """
    device = images.device
    pixels = images.shape[-2] * images.shape[-1]
    chunk_frames = chunk_frames or most_frames(device, pixels, torch.get_num_threads())
    together = min(chunk_frames, most_frames(device, pixels))
    pool, kept = None, []
    for part in images.split(chunk_frames, dim=1):
        states, of_masks = _chunk(model, part)
        pooled = zip(*(x.split(together, dim=1) for x in states.time_logits), strict=True)
        sampled = zip(*(x.split(together, dim=1) for x in states.sampled), strict=True)
        for pair in zip(pooled, sampled, strict=True):
            found = TemporalPool.of(*pair)
            pool = found if pool is None else pool.merge(found)
        kept.append(of_masks)
    assert pool is not None
    heads = model.instance_heads(model.instance_stream(pool.pooled()), last_layer_only=True)
    class_logits, mask_params = (tensor[-1, 0] for tensor in heads)
    queries = class_logits.amax(-1).topk(num_queries).indices
    size = torch.tensor([images.shape[-1], images.shape[-2]], dtype=torch.float32, device=device)
    only_clip = torch.zeros(num_queries, dtype=torch.long, device=device)
    masks = [
        render_masks(
            features,
            mask_params[queries],
            (references[:, queries] * size).expand(features.shape[1], -1, -1).transpose(0, 1),
            only_clip,
            model.mask_stride,
        )
        for features, references, _ in kept
    ]
    boxes = torch.cat([boxes for _, _, boxes in kept])
    return class_logits, boxes, torch.cat(masks, dim=1), queries


def _chunk(model: SeqFormer, images: Tensor) -> tuple[BoxStates, tuple[Tensor, Tensor, Tensor]]:
    """Of t frames [1, t, 3, H, W] their states, and what is kept: mask features [1, t, 8, h, w],
    references [t or 1, Q, 2] and boxes [t, Q, 4]."""
    states, features = model.box_stream(images)
    return states, (features, mask_reference(states.references[-1])[0], states.boxes[-1][0])
