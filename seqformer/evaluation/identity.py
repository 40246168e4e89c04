"""Does a result stay with its object: IDF1 over whole tracks, and switches from frame to frame.

IDF1: Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking",
2016. Switches are those of CLEAR MOT. The numbers are those of TrackEval, at IoU 0.5.

Letters: T frames, G instances and D results of one video and class.
"""

from __future__ import annotations

import numpy as np

from seqformer.evaluation.assignment import assign
from seqformer.evaluation.class_overlaps import ClassOverlaps

SUMS = ("IDTP", "IDFN", "IDFP", "IDSW")
"""What is added up: masks on the right track, missed, false; and switches."""
THRESHOLD = 0.5
_CONTINUES = 1000.0
_EPS = np.finfo(np.float64).eps


def identity_sums(overlaps: ClassOverlaps, similarity: np.ndarray) -> np.ndarray:
    """`SUMS` of one video and class, [4]. Args: as `hota.hota_sums`."""
    num_truth, num_results = overlaps.truth_present.sum(), overlaps.results_present.sum()
    if not num_truth or not num_results:
        return np.array([0.0, num_truth, num_results, 0.0])
    together = (similarity >= THRESHOLD).sum(axis=0).astype(np.float64)  # frames, [G, D]
    rows, columns = assign(together)
    true = together[rows, columns].sum()
    switches = _count_switches(overlaps, similarity)
    return np.array([true, num_truth - true, num_results - true, switches])


def _count_switches(overlaps: ClassOverlaps, similarity: np.ndarray) -> int:
    """How often an instance is matched with another result than when it was last matched.

    In every frame a match of the frame before is kept while its IoU suffices; the rest is matched
    for the largest sum of IoUs.
    """
    partner = np.full(len(overlaps.truth_present), -1)
    last_partner = partner.copy()
    switches = 0
    is_there = overlaps.truth_present.any(axis=0) & overlaps.results_present.any(axis=0)
    # parity: "the frame before" is the last in which both have a mask of any track.
    for t in np.flatnonzero(is_there):
        g = np.flatnonzero(overlaps.truth_present[:, t])
        d = np.flatnonzero(overlaps.results_present[:, t])
        ious = similarity[t][np.ix_(g, d)]
        gain = _CONTINUES * (d[None] == last_partner[g][:, None]) + ious
        gain[ious < THRESHOLD - _EPS] = 0
        rows, columns = assign(gain)
        is_match = gain[rows, columns] > _EPS
        instances, results = g[rows[is_match]], d[columns[is_match]]
        before = partner[instances]
        switches += int(((before >= 0) & (before != results)).sum())
        partner[instances] = results
        last_partner[:] = -1
        last_partner[instances] = results
    return switches


def identity_numbers(sums: np.ndarray) -> dict[str, np.ndarray]:
    """IDF1, IDR, IDP and IDSW from added sums [..., 4], [...] each; 0 where nothing is there."""
    true, missed, false, switches = np.moveaxis(sums, -1, 0)
    return {
        "IDF1": true / np.maximum(1.0, true + 0.5 * false + 0.5 * missed),
        "IDP": true / np.maximum(1.0, true + false),
        "IDR": true / np.maximum(1.0, true + missed),
        "IDSW": switches,
    }
