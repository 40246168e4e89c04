"""Measuring the ranges that precision int8 needs, on a few frames.

In an evaluation the frames come from its own videos, by a rule that knows their number and lengths
only, so neither their order of work nor chunks, ranks or interruptions change a result.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch

from seqformer.config import IMAGENET_MEAN, IMAGENET_STD
from seqformer.data.video_sources import VideoSource
from seqformer.inference.int8 import check_int8
from seqformer.inference.network import normalised
from seqformer.model import Int8Ranges, inference_copy
from seqformer.model.full_float32 import full_float32
from seqformer.model.int8_ranges import measure_ranges
from seqformer.model.seqformer import SeqFormer

logger = logging.getLogger(__name__)

NUM_FRAMES = 8
"""Frames that ranges are measured on, where they can be chosen."""
FIRST_FRAMES = 240
"""They are among so many at the start of a video: a film has to be read up to them."""


def measured_ranges(model: SeqFormer, resized: Iterable[np.ndarray]) -> Int8Ranges:
    """Ranges of a model's numbers.

    Args:
        model: on the CPU.
        resized: frames, uint8 RGB [H, W, 3] of network size, of any number.

    Raises: ValueError where there is no int8, no frame, or a number is not finite.
    """
    check_int8(model, torch.device("cpu"))
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    images = (normalised(torch.from_numpy(frame.copy())[None], mean, std) for frame in resized)
    with full_float32():
        return measure_ranges(model, inference_copy(model), images)


def frames_of(sources: Sequence[VideoSource]) -> Iterator[np.ndarray]:
    """About `NUM_FRAMES` frames, uint8 RGB [h0, w0, 3], spread evenly over videos and in them.

    A video that cannot be read is left out, with a warning.
    """
    count = min(NUM_FRAMES, len(sources))
    for index in _spread(count, len(sources)):
        source = sources[index]
        length = min(source.num_frames(), FIRST_FRAMES)
        try:
            yield from _chosen(source, _spread(min(-(-NUM_FRAMES // count), length), length))
        except (ValueError, OSError, cv2.error) as error:
            logger.warning("%s is left out of the ranges for int8: %s", source, error)


def _spread(count: int, length: int) -> list[int]:
    """Positions in the middle of `count` equal parts of a length."""
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def _chosen(source: VideoSource, positions: Sequence[int]) -> Iterator[np.ndarray]:
    if not source.is_video_file:
        paths = tuple(source.paths[i] for i in positions)
        together = source.scaled_with or source.paths
        yield from replace(source, paths=paths, scaled_with=together).frames()
        return
    frame, chosen = None, set(positions)  # the file may be shorter than it says
    for index, frame in enumerate(source.frames()):
        if index in chosen:
            yield frame
        if index >= positions[-1]:
            return
    if frame is not None and index < positions[0]:
        yield frame
