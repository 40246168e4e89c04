"""What is odd about results that can be scored: said once per kind, and never a reason to refuse.

Copies of a result are false positives, videos without results lose all their instances, and scores
outside 0..1 are often logits. Results of low scores usually have no masks, as the published ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from seqformer.annotations.mask_text import MaskText, mask_list
from seqformer.evaluation.c_scorer import OCCUPIED
from seqformer.evaluation.differences import Differences
from seqformer.evaluation.groups import Groups
from seqformer.evaluation.mask_files import ResultColumns
from seqformer.evaluation.records import GroundTruth, Predictions

logger = logging.getLogger(__name__)


def warn_about_results(truth: GroundTruth, predictions: Predictions, groups: Groups) -> None:
    """One warning per kind, those of `differences.py` among them."""
    differences = Differences()
    differences.see_lengths(truth, predictions)
    differences.see_sizes(truth, predictions, groups.compared())
    differences.tell()
    if not len(predictions):
        return
    outside = np.flatnonzero((predictions.scores < 0) | (predictions.scores > 1))
    _say(predictions, "results have scores outside 0 to 1; only their order counts", outside)
    copies = np.array(sorted(_copies(predictions, groups)), np.int64)
    words = "results are copies of another one with the same class and score, and so false"
    _say(predictions, words, copies)
    if not _have_masks(predictions, np.arange(len(predictions))).any():
        logger.warning("none of the %d results has a mask in any frame", len(predictions))
    needed = {instance.video_id for instance in truth.instances}
    missing = sorted(needed - set(predictions.video_ids.tolist()))
    if missing:
        logger.warning(
            "%d of %d videos with ground truth have no results, so all their instances count as "
            "missed (first: video %d)",
            len(missing),
            len(needed),
            missing[0],
        )


def _say(predictions: Predictions, what: str, positions: np.ndarray) -> None:
    if positions.size:
        where = predictions.where(int(positions[0]))
        logger.warning("%d %s (first: %s)", len(positions), what, where)


def _have_masks(predictions: Predictions, positions: np.ndarray) -> np.ndarray:
    """Whether results have an entry that is no empty one, [positions] bool."""
    if isinstance(predictions.source, ResultColumns):
        spans = predictions.source.spans[predictions.numbers[positions]]
        return spans["flags"] & OCCUPIED > 0
    return np.array([any(mask_list(predictions.masks(i))) for i in positions.tolist()], bool)


def _copies(predictions: Predictions, groups: Groups) -> Iterator[int]:
    """Positions of results that equal an earlier one of their video, class and score."""
    order = groups.results
    scores = predictions.scores[order]
    is_tied = np.flatnonzero((scores[1:] == scores[:-1]) & (groups.rank[1:] > 0)) + 1
    tied = np.union1d(is_tied, is_tied - 1) if is_tied.size else is_tied
    tied = tied[_have_masks(predictions, order[tied])]
    seen: set[tuple[int, int, float, str | bytes]] = set()
    for i in order[tied].tolist():
        masks = predictions.masks(i)
        text = masks.text() if isinstance(masks, MaskText) else repr(masks)
        ids = int(predictions.video_ids[i]), int(predictions.category_ids[i])
        key = (*ids, float(predictions.scores[i]), text)
        if key in seen:
            yield i
        seen.add(key)
