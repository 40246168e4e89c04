"""Greedy matching of results to ground truth, at every IoU threshold and in every area range.

Letters: A area ranges, T IoU thresholds, D results of one video and category by descending score,
G ground-truth instances of that video and category in file order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_RANGES = {
    "all": (0.0, 1e10),
    "small": (0.0, 128.0**2),
    "medium": (128.0**2, 256.0**2),
    "large": (256.0**2, 1e10),
}
"""Mean pixels per frame, both ends included; these are not the limits of COCO."""

THRESHOLDS = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
"""[T] the smallest IoU that matches."""
_OFFICIAL_RANGES = np.array(list(AREA_RANGES.values()))


@dataclass(frozen=True, slots=True)
class Matches:
    """What became of the results of one video and category."""

    partner: np.ndarray
    """[A, T, D] int32: the instance that a result has taken; -1 for none."""
    is_ignored: np.ndarray
    """[A, T, D] bool: neither a true nor a false positive."""
    num_instances: np.ndarray
    """[A]: ground truth that ought to be found."""

    @property
    def is_matched(self) -> np.ndarray:
        """[A, T, D] bool: has a partner."""
        return self.partner >= 0


def match(
    ious: np.ndarray,
    result_areas: np.ndarray,
    truth_areas: np.ndarray,
    is_crowd: np.ndarray,
    area_ranges: np.ndarray = _OFFICIAL_RANGES,
) -> Matches:
    """Give every result, best score first, the free instance with the largest sufficient IoU.

    An instance is ignored if it is a crowd or its area is out of range. Ignored instances are only
    considered by results that find no other; whoever takes one is ignored too. Crowds stay free.
    Of equal IoUs the last in the file wins. A result without a partner is ignored if its own area
    is out of range.

    Args:
        ious: [D, G], results by descending score.
        result_areas: [D], pixels.
        truth_areas: [G], pixels.
        is_crowd: [G] bool.
        area_ranges: [A, 2] pixels, both ends included; by default the official `AREA_RANGES`.
    """
    low, high = area_ranges.T[:, :, None]  # [A, 1] each
    is_outside = (result_areas < low) | (result_areas > high)  # [A, D]
    shape = (len(area_ranges), len(IOU_THRESHOLDS), len(result_areas))
    partners = np.full(shape, -1, np.int32)
    is_ignored = is_outside[:, None, :].repeat(shape[1], axis=1)
    if not truth_areas.size:  # the usual case
        return Matches(partners, is_ignored, np.zeros(len(area_ranges), np.int64))
    truth_is_ignored = is_crowd | (truth_areas < low) | (truth_areas > high)  # [A, G]
    hopeful = np.flatnonzero((ious >= THRESHOLDS[0]).any(axis=1)).tolist()
    if hopeful:
        rows, crowds = ious.tolist(), is_crowd.tolist()
        patterns = truth_is_ignored.tolist()
        for a, ignored in enumerate(patterns):
            same = patterns.index(ignored)
            if same < a:  # an area range that ignores the same instances matches the same ones
                partners[a] = partners[same]
                is_ignored[a] = np.where(partners[a] >= 0, is_ignored[same], is_ignored[a])
                continue
            order = sorted(range(len(ignored)), key=ignored.__getitem__)  # stable
            for t, threshold in enumerate(THRESHOLDS.tolist()):
                free = list(order)
                for d in hopeful:
                    partner = _best_partner(rows[d], threshold, free, ignored)
                    if partner is not None:
                        partners[a, t, d] = partner
                        is_ignored[a, t, d] = ignored[partner]
                        if not crowds[partner]:
                            free.remove(partner)
    return Matches(partners, is_ignored, (~truth_is_ignored).sum(axis=1))


def _best_partner(
    ious: list[float], threshold: float, free: list[int], is_ignored: list[bool]
) -> int | None:
    """Of the free instances, those that count before the ignored, the best; the last of equals."""
    best, partner = threshold, None
    for g in free:
        if partner is not None and is_ignored[g] and not is_ignored[partner]:
            break
        if ious[g] >= best:
            best, partner = ious[g], g
    return partner
