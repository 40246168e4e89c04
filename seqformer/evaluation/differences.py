"""What of the results was not compared as it was meant: masks of other sizes, other frames.

The numbers stay those of the official evaluator, which skips a frame whose two masks differ in
size, and the frames that only one of the two tracks has. Results of half the frames can so have an
AP of 100; it is counted here, and said.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqformer.annotations.mask_text import MaskText, mask_list
from seqformer.annotations.masks import Size
from seqformer.evaluation.c_scorer import MIXED_SIZES, UNUSUAL
from seqformer.evaluation.mask_files import ResultColumns
from seqformer.evaluation.records import GroundTruth, Predictions

logger = logging.getLogger(__name__)


@dataclass
class Differences:
    """Counts over all videos."""

    kinds: dict[str, tuple[int, int, int, str]] = field(default_factory=dict)
    """Kind -> how many, in how many frames, and of the first one the position and where it is."""

    def see_lengths(self, truth: GroundTruth, predictions: Predictions) -> None:
        """Compare the numbers of frames with those of the videos, or with those of their longest
        instances where the file does not tell."""
        expected = dict(truth.lengths)
        for instance in truth.instances:
            if instance.video_id not in truth.lengths:
                own = max(expected.get(instance.video_id, 0), len(instance.segmentations))
                expected[instance.video_id] = own
        for position, instance in enumerate(truth.instances):
            other = abs(len(instance.segmentations) - expected[instance.video_id])
            kind = "instances of the ground truth cover other frames"
            self.add(kind, position, instance.where, other)
        videos = sorted(truth.videos)
        lengths = np.array([expected.get(video, 0) for video in videos], np.int64)
        place = np.searchsorted(np.array(videos, np.uint64), predictions.video_ids)
        needed = lengths[place]
        surplus = np.where(needed > 0, predictions.lengths() - needed, 0)
        for i in np.flatnonzero(surplus).tolist():
            few = surplus[i] < 0
            kind = (
                "results cover fewer frames than their video"
                if few
                else "results cover frames that their video lacks"
            )
            number = int(predictions.numbers[i])
            self.add(kind, number, predictions.where(i), abs(int(surplus[i])))

    def see_sizes(self, truth: GroundTruth, predictions: Predictions, compared: np.ndarray) -> None:
        """Compare the sizes of masks with those of the videos, or of their instances where the file
        does not tell.

        Args:
            compared: positions in the predictions.
        """
        sizes = dict(truth.videos)
        for instance in truth.instances:
            if sizes[instance.video_id] is None:
                sizes[instance.video_id] = _size_of(instance.segmentations)
        if isinstance(predictions.source, ResultColumns):
            compared = compared[_may_differ(sizes, predictions, predictions.source, compared)]
        for i in compared.tolist():
            canvas = sizes[int(predictions.video_ids[i])]
            if canvas is not None:
                other = [own != canvas for own in _mask_sizes(predictions.masks(i))]
                kind = "results have masks of another size than their video"
                self.add(kind, int(predictions.numbers[i]), predictions.where(i), sum(other))

    def add(self, kind: str, position: int, where: str, frames: int) -> None:
        """Count one more, if there are such frames."""
        if not frames:
            return
        number, total, first, first_where = self.kinds.get(kind, (0, 0, position, where))
        if position < first:
            first, first_where = position, where
        self.kinds[kind] = number + 1, total + frames, first, first_where

    def tell(self) -> None:
        """One warning per kind."""
        for kind, (number, frames, _, where) in self.kinds.items():
            logger.warning(
                "%d %s, in %d frames; these frames are not compared, as officially (first: %s)",
                number,
                kind,
                frames,
                where,
            )


def _mask_sizes(masks: list[Any] | MaskText) -> list[Size]:
    """Of those that tell; all masks have been read before."""
    entries = [mask for mask in mask_list(masks) if isinstance(mask, dict) and mask]
    return [(mask["size"][0], mask["size"][1]) for mask in entries]


def _size_of(masks: list[Any] | MaskText) -> Size | None:
    """Of all masks of an instance; None if they differ or none tells."""
    if isinstance(masks, MaskText) and not masks.is_unusual:
        return masks.size
    sizes = set(_mask_sizes(masks))
    return sizes.pop() if len(sizes) == 1 else None


def _may_differ(
    sizes: dict[int, Size | None],
    predictions: Predictions,
    source: ResultColumns,
    compared: np.ndarray,
) -> np.ndarray:
    """[compared] bool: a mask has another size than the video, or one must look."""
    spans = source.spans[predictions.numbers[compared]]
    videos = sorted(sizes)
    place = np.searchsorted(np.array(videos, np.uint64), predictions.video_ids[compared])
    expected = np.array([sizes[i] or (0, 0) for i in videos], np.int64).reshape(-1, 2)
    own = np.stack([spans["height"], spans["width"]], axis=1)
    is_other = (own != expected[place]).any(axis=1) & (spans["height"] > 0)
    return is_other | (spans["flags"] & (MIXED_SIZES | UNUSUAL) > 0)
