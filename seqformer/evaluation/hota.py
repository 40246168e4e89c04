"""HOTA: how well results are detected (DetA), kept on one track (AssA) and localised (LocA).

Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", IJCV 2021. The
numbers are those of TrackEval. Everything that one video and class contributes is a sum, so the
numbers of any set of videos, and of all classes together, come from added sums.

Letters: A similarity thresholds, T frames, G instances and D results of one video and class.
"""

from __future__ import annotations

import numpy as np

from seqformer.evaluation.assignment import assign
from seqformer.evaluation.class_overlaps import ClassOverlaps

ALPHAS = np.arange(0.05, 0.99, 0.05)
"""[A = 19]: a result and an instance only match in a frame where their IoU is at least this."""
SUMS = ("TP", "FN", "FP", "AssA", "AssRe", "AssPr", "LocA")
"""What is added up: matched, missed and false masks; association and IoU of the matched ones."""
CURVES = ("HOTA", "DetA", "AssA", "DetRe", "DetPr", "AssRe", "AssPr", "LocA")
_EPS = np.finfo(np.float64).eps


def hota_sums(overlaps: ClassOverlaps, similarity: np.ndarray) -> np.ndarray:
    """`SUMS` of one video and class at every threshold, [7, A].

    Args:
        overlaps: which instances and results have a mask in which frame.
        similarity: [T, G, D], their IoU.
    """
    sums = np.zeros((len(SUMS), len(ALPHAS)))
    truth_present, results_present = overlaps.truth_present, overlaps.results_present
    sums[1], sums[2] = truth_present.sum(), results_present.sum()
    frames = np.flatnonzero(truth_present.any(axis=0) & results_present.any(axis=0))
    if not frames.size:
        return sums
    present = [
        (np.flatnonzero(truth_present[:, t]), np.flatnonzero(results_present[:, t])) for t in frames
    ]
    # parity: column-major, for sums over rows and columns to be rounded as in TrackEval; with
    # equal IoUs the last digit decides who is matched.
    similar = [
        np.asfortranarray(similarity[t][np.ix_(g, d)])
        for t, (g, d) in zip(frames, present, strict=True)
    ]
    potential = np.zeros((len(truth_present), len(results_present)))
    for (g, d), ious in zip(present, similar, strict=True):
        others = ious.sum(0)[None] + ious.sum(1)[:, None] - ious
        potential[np.ix_(g, d)] += np.where(others > _EPS, ious / np.maximum(others, _EPS), 0)
    lengths = truth_present.sum(axis=1)[:, None] + results_present.sum(axis=1)[None]
    # Tracks without any mask share no frame with others: their rows are not used.
    alignment = potential / np.maximum(lengths - potential, _EPS)
    matches = np.zeros((*potential.shape, len(ALPHAS)))
    for (g, d), ious in zip(present, similar, strict=True):
        rows, columns = assign(alignment[np.ix_(g, d)] * ious)
        matched = ious[rows, columns][:, None]
        is_hit = matched >= ALPHAS - _EPS  # [min(G, D), A]
        matches[g[rows], d[columns]] += is_hit
        sums[0] += is_hit.sum(axis=0)
        sums[6] += (matched * is_hit).sum(axis=0)
    sums[1:3] -= sums[0]
    ends = truth_present.sum(axis=1)[:, None, None], results_present.sum(axis=1)[None, :, None]
    for row, total in ((3, ends[0] + ends[1] - matches), (4, ends[0]), (5, ends[1])):
        sums[row] = (matches * matches / np.maximum(1, total)).sum(axis=(0, 1))
    return sums


def hota_curves(sums: np.ndarray) -> dict[str, np.ndarray]:
    """`CURVES` from added sums [..., 7, A], [..., A] each.

    Where nothing is matched LocA is 1 and all else 0: TrackEval's convention.
    """
    true, missed, false, association, recall, precision, iou = np.moveaxis(sums, -2, 0)
    least = np.maximum(1, true)
    detection = true / np.maximum(1, true + missed + false)
    association = association / least
    return {
        "HOTA": np.sqrt(detection * association),
        "DetA": detection,
        "AssA": association,
        "DetRe": true / np.maximum(1, true + missed),
        "DetPr": true / np.maximum(1, true + false),
        "AssRe": recall / least,
        "AssPr": precision / least,
        "LocA": np.maximum(1e-10, iou) / np.maximum(1e-10, true),
    }
