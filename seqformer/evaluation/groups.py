"""What one video has of one category, of all videos and categories: the unit of the metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqformer.evaluation.average_precision import MAX_RESULTS
from seqformer.evaluation.records import GroundTruth, Predictions


@dataclass(frozen=True)
class Groups:
    """Instances and results side by side. N groups, by ascending video, then category."""

    instances: np.ndarray
    """[G] positions in the ground truth."""
    results: np.ndarray
    """[D] positions in the predictions: the best of every group."""
    rank: np.ndarray
    """[D] int32 in their group."""
    bounds: np.ndarray
    """[N, 4] int64: first instance and the one behind the last, first result and the same."""
    video: np.ndarray
    """[N] position of the video by ascending id."""
    category: np.ndarray
    """[N] position of the category by ascending id."""

    @classmethod
    def of(cls, truth: GroundTruth, predictions: Predictions) -> Groups:
        """Sort both into groups, in the order of the official evaluator."""
        truth_key, key = _keys(truth, predictions)
        results = np.lexsort((-predictions.scores, key))
        key = key[results]
        rank = np.arange(len(results)) - np.searchsorted(key, key)
        best = rank < max(MAX_RESULTS)
        return cls._bounded(truth, truth_key, results[best], key[best], rank[best])

    @classmethod
    def in_file_order(cls, truth: GroundTruth, predictions: Predictions) -> Groups:
        """All results, whatever their score, in the order of their file; `rank` is 0."""
        truth_key, key = _keys(truth, predictions)
        results = np.argsort(key, kind="stable")
        return cls._bounded(truth, truth_key, results, key[results], np.zeros_like(results))

    @classmethod
    def _bounded(
        cls,
        truth: GroundTruth,
        truth_key: np.ndarray,
        results: np.ndarray,
        result_key: np.ndarray,
        rank: np.ndarray,
    ) -> Groups:
        """From the sorted results and their keys."""
        instances = np.argsort(truth_key, kind="stable")
        truth_key = truth_key[instances]
        groups = np.union1d(truth_key, result_key)
        bounds = [
            np.searchsorted(keys, groups, side)
            for keys in (truth_key, result_key)
            for side in ("left", "right")
        ]
        return cls(
            instances,
            results,
            rank.astype(np.int32),
            np.ascontiguousarray(np.stack(bounds, axis=1).reshape(-1, 4), np.int64),
            *np.divmod(groups, max(1, len(truth.categories))),
        )

    def compared(self) -> np.ndarray:
        """Positions in the predictions of the results that have an instance beside them."""
        num_instances, num_results = (self.bounds[:, [1, 3]] - self.bounds[:, [0, 2]]).T
        return self.results[np.repeat(num_instances > 0, num_results)]


def _keys(truth: GroundTruth, predictions: Predictions) -> list[np.ndarray]:
    """Number of the group of every instance and of every result, by video, then category."""
    videos = np.array(sorted(truth.videos), np.uint64)
    categories = np.array(sorted(truth.categories), np.uint64)
    ids = [(one.video_id, one.category_id) for one in truth.instances]
    of_truth = np.array(ids, np.uint64).reshape(-1, 2).T
    of_results = predictions.video_ids, predictions.category_ids
    return [
        np.searchsorted(videos, video_ids) * max(1, len(categories))
        + np.searchsorted(categories, category_ids)
        for video_ids, category_ids in (of_truth, of_results)
    ]
