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
        videos = np.array(sorted(truth.videos), np.uint64)
        categories = np.array(sorted(truth.categories), np.uint64)

        def key(video_ids: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
            places = np.searchsorted(videos, video_ids), np.searchsorted(categories, category_ids)
            return places[0] * max(1, len(categories)) + places[1]

        ids = [(one.video_id, one.category_id) for one in truth.instances]
        truth_key = key(*np.array(ids, np.uint64).reshape(-1, 2).T)
        result_key = key(predictions.video_ids, predictions.category_ids)
        instances = np.argsort(truth_key, kind="stable")
        results = np.lexsort((-predictions.scores, result_key))
        result_key = result_key[results]
        start = np.searchsorted(result_key, result_key)
        rank = np.arange(len(results)) - start
        best = rank < max(MAX_RESULTS)
        results, result_key = results[best], result_key[best]
        truth_key = truth_key[instances]
        groups = np.sort(np.concatenate([truth_key, result_key]))
        groups = groups[np.diff(groups, prepend=-1) > 0]
        bounds = [
            np.searchsorted(keys, groups, side)
            for keys in (truth_key, result_key)
            for side in ("left", "right")
        ]
        return cls(
            instances,
            results,
            rank[best].astype(np.int32),
            np.ascontiguousarray(np.stack(bounds, axis=1).reshape(-1, 4), np.int64),
            *np.divmod(groups, max(1, len(categories))),
        )

    def compared(self) -> np.ndarray:
        """Positions in the predictions of the results that have an instance beside them."""
        num_instances, num_results = (self.bounds[:, [1, 3]] - self.bounds[:, [0, 2]]).T
        return self.results[np.repeat(num_instances > 0, num_results)]
