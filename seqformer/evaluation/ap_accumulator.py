"""Average precision of any weighting of the videos, from results that were matched once.

A result's match does not depend on other videos, so the AP of a subset of the videos, of one video,
and of a bootstrap resample are the same sum with other weights: how often each video counts. With
all weights 1 it is the official AP.

Precision falls from one true positive to the next, so its running maximum only has to be known at
the true positives. How many true and false positives every video has contributed up to each of them
is a small matrix, and one matrix product serves all weightings.

Letters: A area ranges, T IoU thresholds, R recall levels, V videos, K categories, W weightings, P
true positives of one category.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqformer.evaluation.average_precision import RECALL_LEVELS, first_reaching
from seqformer.evaluation.matching import IOU_THRESHOLDS, Matches

_CHUNK = 128
"""Weightings at a time: bounds the memory and stays in the cache."""
_TINY = np.spacing(1)


@dataclass(frozen=True, slots=True)
class VideoMatches:
    """What became of the results of one video and category."""

    video: int
    """Position of the video in the ascending order of ids."""
    scores: np.ndarray
    """[D], descending."""
    matches: Matches


@dataclass(frozen=True)
class APAccumulator:
    """Results of one category in one area range."""

    videos: np.ndarray
    """[U]: positions of the videos that have anything of this category."""
    num_instances: np.ndarray
    """[U]: instances to find."""
    true_upto: list[np.ndarray]
    """Per IoU threshold [U, P]: true positives of each video up to each true positive of all."""
    false_upto: list[np.ndarray]
    """Per IoU threshold [U, P]: false positives, likewise."""

    @classmethod
    def of(cls, videos: Sequence[VideoMatches], area: int = 0) -> APAccumulator:
        """From the matches of a category in all videos, in ascending order of the videos."""
        row = np.repeat(np.arange(len(videos)), [len(video.scores) for video in videos])
        joined = np.concatenate([video.scores for video in videos] or [np.zeros(0)])
        order = np.argsort(-joined, kind="stable")
        empty = [np.zeros((len(IOU_THRESHOLDS), 0), bool)]
        is_true = np.concatenate([p.matches.is_matched[area] for p in videos] or empty, axis=-1)
        counts = ~np.concatenate([p.matches.is_ignored[area] for p in videos] or empty, axis=-1)
        true_upto, false_upto = [], []
        for hit, counted in zip(is_true[:, order], counts[:, order], strict=True):
            upto = _counts_upto(row[order], hit & counted, ~hit & counted, len(videos))
            true_upto.append(upto[0])
            false_upto.append(upto[1])
        return cls(
            np.array([video.video for video in videos], np.int64),
            np.array([video.matches.num_instances[area] for video in videos], np.float64),
            true_upto,
            false_upto,
        )

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """AP per weighting and IoU threshold, [W, T]; NaN where there is no instance to find.

        Args:
            weights: [W, V], whole numbers >= 0: how often every video counts.
        """
        own = weights[:, self.videos].astype(np.float64)
        num_instances = own @ self.num_instances
        values = np.full((len(own), len(self.true_upto)), np.nan)
        for start in range(0, len(own), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            rows = np.flatnonzero(num_instances[chunk] > 0) + start
            if not rows.size:
                continue
            needed = _needed(num_instances[rows])
            for t, (true_upto, false_upto) in enumerate(
                zip(self.true_upto, self.false_upto, strict=True)
            ):
                true, false = own[rows] @ true_upto, own[rows] @ false_upto
                values[rows, t] = interpolated_precision(true, false, needed).mean(axis=1)
        return values

    def recall(self, weights: np.ndarray) -> np.ndarray:
        """Share of the instances that were found, [W, T]; NaN where there is none to find."""
        own = weights[:, self.videos].astype(np.float64)
        num_instances = own @ self.num_instances
        num_true = [
            own @ (upto[:, -1] if upto.shape[1] else upto.sum(1)) for upto in self.true_upto
        ]
        with np.errstate(invalid="ignore"):
            return (
                np.stack(num_true, axis=1)
                / np.where(num_instances > 0, num_instances, np.nan)[:, None]
            )


def _counts_upto(
    rows: np.ndarray, is_true: np.ndarray, is_false: np.ndarray, num_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Per row, how many of the two kinds come up to each true one, [num_rows, P] each."""
    place = np.cumsum(is_true) - is_true  # true ones before
    num_true = int(is_true.sum())
    upto = []
    for kind in (is_true, is_false):
        hits = np.zeros((num_rows, num_true + 1))
        np.add.at(hits, (rows[kind], place[kind]), 1)
        upto.append(np.cumsum(hits[:, :num_true], axis=1))
    return upto[0], upto[1]


def _needed(num_instances: np.ndarray) -> np.ndarray:
    """The fewest true positives that reach each recall level, [W, R]; compared as doubles."""
    total = num_instances[:, None]
    needed = np.maximum(np.floor(RECALL_LEVELS * total) - 1, 0)
    for _ in range(3):
        needed += needed / total < RECALL_LEVELS
    return needed


def interpolated_precision(true: np.ndarray, false: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Precision at the recall levels, [W, R], 0 where one is not reached.

    Args:
        true: [W, P] true positives so far, at every true positive by descending score.
        false: [W, P] false positives so far.
        needed: [W, R] true positives that reach the level.
    """
    if not true.shape[1]:
        return np.zeros(needed.shape)
    envelope = np.maximum.accumulate((true / (true + false + _TINY))[:, ::-1], axis=1)[:, ::-1]
    place = first_reaching(true, needed)
    is_reached = place < true.shape[1]
    place = np.minimum(place, true.shape[1] - 1)
    return np.where(is_reached, np.take_along_axis(envelope, place, 1), 0)


def single_average_precision(is_true: np.ndarray, num_instances: float) -> float:
    """AP at one IoU threshold of one category: results in order, ignored ones left out.

    Returns: NaN where there is no instance to find.
    """
    if num_instances <= 0:
        return float("nan")
    true = np.cumsum(is_true)[is_true].astype(np.float64)[None]
    false = np.cumsum(~is_true)[is_true].astype(np.float64)[None]
    needed = _needed(np.array([float(num_instances)]))
    return float(interpolated_precision(true, false, needed).mean())


def mean_of_valid(values: np.ndarray, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """Mean of the entries that are not NaN; -1 where there is none."""
    valid = ~np.isnan(values)
    count = valid.sum(axis=axis)
    total = np.where(valid, values, 0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), -1.0)
