"""Two results files on the same videos: is one better, by how much, and where.

Both are scored on the same bootstrap resamples, so what makes a resample easy or hard for both
cancels out of the difference: the paired interval is much narrower than those of the two APs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from seqformer.config import RESAMPLES
from seqformer.evaluation.analysis import STATS, TRACKING_STATS, Analysis, stats_of
from seqformer.evaluation.ap_accumulator import mean_of_valid
from seqformer.evaluation.bootstrap import Interval, resample_weights
from seqformer.evaluation.tracking_sums import SUMMED


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first."""

    first: float
    second: float
    difference: Interval
    """With its 95 % bootstrap interval over the videos; 0 to 0 where there is nothing to measure
    with."""
    share_better: float
    """Share of the resamples in which the second is the better one; ties count half."""


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    stats: dict[str, Difference]
    """AP, AP50, AP75, AR100."""
    per_class: dict[int, Difference]
    """AP by category id."""
    tracking: dict[str, Difference]
    """HOTA, DetA, AssA, LocA, IDF1, and IDSW, which is a count."""
    tracking_per_class: dict[int, Difference]
    """HOTA by category id."""
    per_video: dict[int, tuple[float, float]]
    """By video id: AP of the first and of the second on this video alone; -1 without instances."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "stats": {name: asdict(row) for name, row in self.stats.items()},
            "per_class": {str(k): asdict(row) for k, row in self.per_class.items()},
            "tracking": {name: asdict(row) for name, row in self.tracking.items()},
            "tracking_per_class": {
                str(k): asdict(row) for k, row in self.tracking_per_class.items()
            },
            "per_video": {str(v): list(pair) for v, pair in self.per_video.items()},
        }


def compare(
    first: Analysis, second: Analysis, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two results files that were analysed against the same annotations.

    Raises: ValueError when the annotations list other videos or classes.
    """
    if (first.truth.videos, first.truth.categories) != (
        second.truth.videos,
        second.truth.categories,
    ):
        raise ValueError("results are only comparable against one and the same annotation file")
    num_videos = len(first.truth.videos)
    weights = resample_weights(num_videos, resamples, seed)
    everything = np.ones((1, num_videos), np.int64)
    values = [stats_of(one.accumulators, everything) for one in (first, second)]
    resampled = [stats_of(one.accumulators, weights) for one in (first, second)]
    per_class = {}
    for k, category_id in enumerate(sorted(first.truth.categories)):
        accumulators = first.accumulators[k], second.accumulators[k]
        both = [
            float(mean_of_valid(accumulator.average_precision(everything)))
            for accumulator in accumulators
        ]
        again = [
            mean_of_valid(accumulator.average_precision(weights), 1) for accumulator in accumulators
        ]
        per_class[category_id] = _difference(both[0], both[1], again[0], again[1])
    one_by_one = np.eye(num_videos, dtype=np.int64)
    alone = [stats_of(one.accumulators, one_by_one)["AP"].tolist() for one in (first, second)]
    return Comparison(
        stats={
            name: _difference(
                float(values[0][name][0]),
                float(values[1][name][0]),
                resampled[0][name],
                resampled[1][name],
            )
            for name in STATS
        },
        per_class=per_class,
        tracking=_tracking(first, second, weights),
        tracking_per_class=_hota_by_class(first, second, weights),
        per_video=dict(zip(sorted(first.truth.videos), zip(*alone, strict=True), strict=True)),
    )


def _tracking(first: Analysis, second: Analysis, weights: np.ndarray) -> dict[str, Difference]:
    resampled = [one.tracking.sums.mean_numbers(weights) for one in (first, second)]
    rows = {}
    for name in TRACKING_STATS:
        values = [float(one.tracking.stats[name]) for one in (first, second)]
        row = _difference(values[0], values[1], resampled[0][name], resampled[1][name])
        if name in SUMMED:  # the fewer the better
            row = replace(row, share_better=1 - row.share_better)
        rows[name] = row
    return rows


def _hota_by_class(first: Analysis, second: Analysis, weights: np.ndarray) -> dict[int, Difference]:
    rows = {}
    for k, category_id in enumerate(sorted(first.truth.categories)):
        values, resampled = [], []
        for one in (first, second):
            row = one.tracking.per_class[category_id]
            values.append(float(row["HOTA"]) if row["num_masks"] else -1.0)
            resampled.append(one.tracking.sums.class_numbers(k, weights)["HOTA"])
        rows[category_id] = _difference(values[0], values[1], resampled[0], resampled[1])
    return rows


def _difference(
    first: float, second: float, first_resampled: np.ndarray, second_resampled: np.ndarray
) -> Difference:
    is_valid = (first_resampled != -1) & (second_resampled != -1)
    if -1 in (first, second) or not is_valid.any():
        return Difference(first, second, Interval(0.0, 0.0, 0.0), 0.5)
    gain = second_resampled[is_valid] - first_resampled[is_valid]
    share_better = float(np.mean(gain > 0) + np.mean(gain == 0) / 2)
    return Difference(first, second, Interval.around(second - first, gain), share_better)
