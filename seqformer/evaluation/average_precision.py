"""From matched results to average precision and recall, and to the twelve numbers.

Letters: A area ranges, T IoU thresholds, R recall levels, K categories, M limits on results, D
results of one category.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqformer.evaluation.matching import AREA_RANGES, IOU_THRESHOLDS, Matches

MAX_RESULTS = (1, 10, 100)
"""Results kept per video and category, best first."""
RECALL_LEVELS = np.linspace(0, 1, 101)
"""parity: as doubles. Level 0.70 is one unit above 7 / 10, so a recall of 7 / 10 misses it."""

_ALL, _SMALL, _MEDIUM, _LARGE = range(len(AREA_RANGES))
_TINY = np.spacing(1)


@dataclass(frozen=True, slots=True)
class Curves:
    """Precision and recall of K categories, by ascending id."""

    precision: np.ndarray
    """[T, R, K, A, M]."""
    recall: np.ndarray
    """[T, K, A, M]."""
    scores: np.ndarray
    """[T, R, K, A, M]: the score at which a recall level is reached, 0 if it never is."""
    num_instances: np.ndarray
    """[K], crowds left out."""


def accumulate(
    scores: Sequence[np.ndarray], matches: Sequence[Matches], limit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interpolated precision of one category, from the first `limit` results of every video.

    Args:
        scores: per video, in ascending order of its id: descending scores.
        matches: what became of these results.
    Returns: precision [T, R, A], recall [T, A], and the scores at which the levels are reached,
        [T, R, A], 0 where they never are. -1 everywhere in a range without instances to find.
    """
    precision = np.full((len(IOU_THRESHOLDS), len(RECALL_LEVELS), len(AREA_RANGES)), -1.0)
    score_at = precision.copy()
    recall = precision[:, 0].copy()
    num_instances = sum((m.num_instances for m in matches), np.zeros(len(AREA_RANGES), np.int64))
    has_instances = num_instances > 0
    precision[..., has_instances] = score_at[..., has_instances] = recall[:, has_instances] = 0
    joined = np.concatenate([part[:limit] for part in (*scores, np.zeros(0))])
    if not joined.size:
        return precision, recall, score_at

    # Stable: equal scores stay in the order of the videos, and within one in that of the file.
    order = np.argsort(-joined, kind="stable")
    joined = joined[order]
    is_matched = np.concatenate([m.is_matched[..., :limit] for m in matches], axis=-1)[..., order]
    counts = ~np.concatenate([m.is_ignored[..., :limit] for m in matches], axis=-1)[..., order]
    true_positives = np.cumsum(is_matched & counts, axis=-1)  # [A, T, D]
    false_positives = np.cumsum(~is_matched & counts, axis=-1)
    raw_precision = true_positives / (true_positives + false_positives + _TINY)
    envelope = np.maximum.accumulate(raw_precision[..., ::-1], axis=-1)[..., ::-1]
    for a in np.flatnonzero(has_instances):
        total = num_instances[a]
        recall[:, a] = true_positives[a, :, -1] / total
        needed = np.searchsorted(np.arange(total + 1) / total, RECALL_LEVELS)
        place = first_reaching(true_positives[a], needed)  # [T, R]
        is_reached = place < joined.size
        place = np.minimum(place, joined.size - 1)
        precision[..., a] = np.where(is_reached, np.take_along_axis(envelope[a], place, 1), 0)
        score_at[..., a] = np.where(is_reached, joined[place], 0)
    return precision, recall, score_at


def first_reaching(counts: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Where every row of rising counts [T, D] first reaches a needed count [R] or [T, R]: [T, R].

    D where it never does. One search serves all rows, because each is lifted above the one before.
    """
    num_rows, length = counts.shape
    row = np.arange(num_rows)[:, None]
    lift = row * (max(counts.max(), needed.max()) + 1)
    return np.searchsorted((counts + lift).ravel(), needed + lift) - row * length


def summarise(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """The twelve numbers in the official order, of one category or of several.

    Args:
        precision: [T, R, ..., A, M], -1 where there is nothing to find.
        recall: [T, ..., A, M], the same.
    """
    at_50, at_75 = (int(np.abs(IOU_THRESHOLDS - iou).argmin()) for iou in (0.5, 0.75))
    most = precision[..., -1]
    return {
        "AP": _mean(most[..., _ALL]),
        "AP50": _mean(most[at_50, ..., _ALL]),
        "AP75": _mean(most[at_75, ..., _ALL]),
        "APs": _mean(most[..., _SMALL]),
        "APm": _mean(most[..., _MEDIUM]),
        "APl": _mean(most[..., _LARGE]),
        **{f"AR{limit}": _mean(recall[..., _ALL, m]) for m, limit in enumerate(MAX_RESULTS)},
        "ARs": _mean(recall[..., _SMALL, -1]),
        "ARm": _mean(recall[..., _MEDIUM, -1]),
        "ARl": _mean(recall[..., _LARGE, -1]),
    }


def _mean(values: np.ndarray) -> float:
    """Mean of the entries that are not -1; -1 if there is none."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0
