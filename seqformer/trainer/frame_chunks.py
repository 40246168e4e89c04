"""Gradients of a long clip, a few frames at a time, exact.

The box stream of a frame (backbone, encoder, all decoder layers) never looks at another frame;
frames meet only in the temporal softmax and in the losses. So:

1. Without a graph, run the box stream over chunks of frames; keep boxes, mask features and the
   running sums of the temporal softmax.
2. With a graph, run the instance stream on the sums, match, form the losses; go back to what was
   kept.
3. Run every chunk again, now with a graph and the same random numbers, and go on back from its
   share of those gradients.

The price is about one more forward pass; the memory, that of one chunk and what step 1 keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.profiler import record_function

from seqformer.model.decoder import BoxStates
from seqformer.model.seqformer import mask_reference
from seqformer.model.temporal import TemporalPool
from seqformer.structures import ClipBatch, ClipOutput
from seqformer.trainer.parallel_model import ParallelModel
from seqformer.trainer.precision import Precision

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class _Chunk:
    """Some frames after step 1: their pool, boxes, features, references, and the random state."""

    frames: Tensor
    generators: list[Tensor]
    pool: TemporalPool
    boxes: Tensor
    mask_features: Tensor
    references: list[Tensor]


@dataclass(frozen=True)
class _Kept:
    """What the losses depend on, as leaves that collect gradients.

    Attributes:
        maximum: [D, B, Q, 1], constant scale of the sums.
        denominator: [D, B, Q, 1] and weighted: [D, B, Q, C], sums of the temporal softmax.
        boxes: [D, B, T, Q, 4].
        mask_features: [B, T, 8, h, w].
        first_reference: [B, 1, Q, 2], which entered the first layer of every frame.
    """

    maximum: Tensor
    denominator: Tensor
    weighted: Tensor
    boxes: Tensor
    mask_features: Tensor
    first_reference: Tensor


def backward_in_chunks(
    parallel_model: ParallelModel,
    precision: Precision,
    batch: ClipBatch,
    frame_chunk: int,
    backward: Callable[[ClipOutput], Losses],
    is_last: bool,
) -> Losses:
    """Add the gradient of a micro-batch to the model's parameters.

    Args:
        parallel_model: the model.
        precision: of the forward passes.
        batch: clips of any length.
        frame_chunk: frames at once.
        backward: forms the losses of an output and goes back from them.
        is_last: whether this is the last micro-batch of the step. Under FSDP its last chunk also
            exchanges gradients; under DDP that is left to `ParallelModel.average_gradients`.

    Returns: what `backward` returned.
    """
    chunks = []
    for frames in batch.images.split(frame_chunk, dim=1):
        generators = _generators(frames.device)
        with record_function("step/forward"), torch.no_grad():
            states, mask_features, pool = _box_stream(parallel_model, precision, frames, batch)
        boxes = torch.stack(states.boxes)
        chunks.append(_Chunk(frames, generators, pool, boxes, mask_features, states.references))
    with parallel_model.accumulating(False):
        kept = _kept(chunks)
        losses = backward(_output(parallel_model, precision, kept, chunks))
    starts = range(0, batch.images.shape[1], frame_chunk)
    for start, chunk in zip(starts, chunks, strict=True):
        at_end = chunk is chunks[-1]
        with parallel_model.accumulating(is_last and at_end):
            _restore(chunk.frames.device, chunk.generators)
            with record_function("step/recompute"):
                states, mask_features, pool = _box_stream(
                    parallel_model, precision, chunk.frames, batch
                )
            with record_function("step/backward"):
                _go_back(kept, start, states, mask_features, pool)
    return losses


def _box_stream(
    parallel_model: ParallelModel, precision: Precision, frames: Tensor, batch: ClipBatch
) -> tuple[BoxStates, Tensor, TemporalPool]:
    with precision.autocast():
        states, mask_features = parallel_model.box_stream(frames, batch.padding_mask)
        return states, mask_features, TemporalPool.of(states.time_logits, states.sampled)


def _kept(chunks: list[_Chunk]) -> _Kept:
    def leaf(x: Tensor) -> Tensor:
        return x.detach().requires_grad_()

    total = reduce(TemporalPool.merge, (chunk.pool for chunk in chunks))
    return _Kept(
        maximum=total.maximum,
        denominator=leaf(total.denominator),
        weighted=leaf(total.weighted),
        boxes=leaf(torch.cat([chunk.boxes for chunk in chunks], dim=2)),
        mask_features=leaf(torch.cat([chunk.mask_features for chunk in chunks], dim=1)),
        first_reference=leaf(chunks[0].references[0]),
    )


def _output(
    parallel_model: ParallelModel, precision: Precision, kept: _Kept, chunks: list[_Chunk]
) -> ClipOutput:
    """The clip's output, a function of `kept`."""
    pool = TemporalPool(kept.maximum, kept.denominator, kept.weighted)
    with record_function("step/forward"), precision.autocast():
        class_logits, mask_params = parallel_model.instances(pool.pooled())
    B, T = kept.mask_features.shape[:2]
    references = [mask_reference(kept.first_reference).expand(B, T, -1, -1)]
    for layer in range(1, kept.boxes.shape[0]):
        of_chunks = [mask_reference(chunk.references[layer]) for chunk in chunks]
        references.append(torch.cat(of_chunks, dim=1))
    return ClipOutput(
        class_logits=class_logits,
        boxes=kept.boxes,
        mask_params=mask_params,
        reference_points=torch.stack(references),
        mask_features=kept.mask_features,
        mask_stride=parallel_model.model.mask_stride,
    )


def _go_back(
    kept: _Kept, start: int, states: BoxStates, mask_features: Tensor, pool: TemporalPool
) -> None:
    """From the gradients of `kept`, through the chunk whose first frame is `start`."""
    assert kept.boxes.grad is not None and kept.mask_features.grad is not None
    here = slice(start, start + mask_features.shape[1])
    share = (pool.maximum - kept.maximum).exp()
    pairs = [
        (torch.stack(states.boxes), kept.boxes.grad[:, :, here]),
        (mask_features, kept.mask_features.grad[:, here]),
        (pool.denominator * share, kept.denominator.grad),
        (pool.weighted * share, kept.weighted.grad),
    ]
    if start == 0:
        pairs.append((states.references[0], kept.first_reference.grad))
    pairs = [pair for pair in pairs if pair[0].requires_grad]  # not behind frozen parts
    if pairs:
        outputs, gradients = zip(*pairs, strict=True)
        torch.autograd.backward(outputs, gradients)


def _generators(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _restore(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
