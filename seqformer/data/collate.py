"""Clips of several sizes, padded to one: a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seqformer.data.clip_dataset import Sample
from seqformer.data.transport import PackedBatch
from seqformer.structures import ClipBatch

PAD_TO = 32
"""Batches are padded to multiples of this many pixels."""


def collate(samples: Sequence[Sample]) -> ClipBatch:
    """Pad clips with zeros at the right and bottom to one size, a multiple of `PAD_TO`.

    Targets keep the size of their clip.
    """
    sizes = [sample.images.shape[-2:] for sample in samples]
    height, width = (-(-max(sides) // PAD_TO) * PAD_TO for sides in zip(*sizes, strict=True))
    images = torch.zeros(len(samples), *samples[0].images.shape[:2], height, width)
    padding_mask = torch.ones(len(samples), height, width, dtype=torch.bool)
    for sample, padded, mask, (h, w) in zip(samples, images, padding_mask, sizes, strict=True):
        padded[..., :h, :w] = sample.images
        mask[:h, :w] = False
    return ClipBatch(
        images=images,
        padding_mask=padding_mask,
        targets=[sample.targets for sample in samples],
        ids=[sample.id for sample in samples],
        broken=[message for sample in samples for message in sample.broken],
    )


def collate_packed(samples: Sequence[Sample]) -> PackedBatch:
    """`collate` in a decoding process: the batch is ready to be sent."""
    return PackedBatch(collate(samples))
