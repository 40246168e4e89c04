"""Our inference as the benchmarks run it beside the published formulation."""

from __future__ import annotations

import torch
from torch import Tensor

from seqformer.config import EvalConfig
from seqformer.inference.chunking import MOST_FRAMES
from seqformer.model import SeqFormer, TemporalPool, mask_reference, render_masks

NUM_OUTPUT_QUERIES = EvalConfig().top_k
"""Queries with masks at inference; the most that `Predictor` can output."""
CHUNK_FRAMES = MOST_FRAMES["cpu"]
"""Frames that `Predictor` lets through together on a CPU with memory to spare."""


@torch.inference_mode()
def our_inference(
    model: SeqFormer,
    images: Tensor,
    num_queries: int = NUM_OUTPUT_QUERIES,
    chunk_frames: int = CHUNK_FRAMES,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `Predictor` asks of the network: frames in portions, masks of the best queries only.

    Args:
        model: `inference_copy` of one, or one in evaluation mode.
        images: [1, T, 3, H, W] normalised.
        num_queries: n, masks to draw.
        chunk_frames: frames that go through together.

    Returns: class_logits [Q, K], boxes [T, Q, 4], mask logits [n, T, h4, w4] and the queries [n]
        they belong to.
    """
    pool, kept = None, []
    for part in images.split(chunk_frames, dim=1):
        states, features = model.box_stream(part)
        found = TemporalPool.of(states.time_logits, states.sampled)
        pool = found if pool is None else pool.merge(found)
        kept.append((features, mask_reference(states.references[-1])[0], states.boxes[-1][0]))
    assert pool is not None
    heads = model.instance_heads(model.instance_stream(pool.pooled()), last_layer_only=True)
    class_logits, mask_params = (tensor[-1, 0] for tensor in heads)
    queries = class_logits.amax(-1).topk(num_queries).indices
    size = images.new_tensor([images.shape[-1], images.shape[-2]])
    only_clip = torch.zeros(num_queries, dtype=torch.long)
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
