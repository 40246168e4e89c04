"""HOTA, IDF1 and their parts, per class and for all, as TrackEval has them for YouTube-VIS.

What TrackEval does there, and this does too: every result counts, whatever its score; crowds are
ordinary instances; sizes do not matter; of masks of all frames of a video, those of one class are
matched, frame by frame. Classes are averaged in two ways: over the classes of the file, those that
do not occur included with 0 (`cls_comb_cls_av`), and over all masks (`cls_comb_det_av`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seqformer.evaluation.c_tracking import tracking_in_c
from seqformer.evaluation.class_overlaps import read_class_overlaps
from seqformer.evaluation.hota import ALPHAS, hota_curves
from seqformer.evaluation.records import (
    GroundTruth,
    Parsed,
    Predictions,
    read_ground_truth,
    read_predictions,
)
from seqformer.evaluation.tracking_sums import SUMMED, TrackingSums, numbers_of


@dataclass(frozen=True)
class TrackingMetrics:
    """The numbers, in 0..1; IDSW is a count."""

    stats: dict[str, float]
    """`tracking_sums.NUMBERS`, averaged over the classes."""
    over_masks: dict[str, float]
    """The same, averaged over the masks of all classes."""
    per_class: dict[int, dict[str, Any]]
    """By category id: name, num_masks of the ground truth, and the same numbers."""
    curves: dict[str, np.ndarray]
    """HOTA and its parts over the IoU thresholds `hota.ALPHAS`, averaged over the classes."""
    sums: TrackingSums = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **self.stats,
            "over_masks": dict(self.over_masks),
            "thresholds": [round(alpha, 2) for alpha in ALPHAS.tolist()],
            "curves": {name: curve.tolist() for name, curve in self.curves.items()},
            "per_class": {
                str(category_id): dict(row) for category_id, row in self.per_class.items()
            },
        }


def evaluate_tracking(
    annotations: str | Path | Parsed | dict[str, Any], results: str | Path | Parsed | list[Any]
) -> TrackingMetrics:
    """Score results against YouTube-VIS annotations; each may be a path or the parsed JSON.

    Raises: as `evaluate`.
    """
    truth = read_ground_truth(annotations)
    return tracking_metrics(truth, read_predictions(results, truth))


def tracking_metrics(
    truth: GroundTruth,
    predictions: Predictions,
    threads: int = 1,
    sums: TrackingSums | None = None,
) -> TrackingMetrics:
    """The same from files that were read before.

    Args:
        threads: of the C code; the numbers do not depend on it.
        sums: of these results, where they are known already.

    Raises: ValueError naming a mask's place.
    """
    if sums is None:
        sums = tracking_in_c(truth, predictions, threads)
    if sums is None:
        overlaps = read_class_overlaps(truth, predictions.records())
        sums = TrackingSums.of(truth.videos, truth.categories, overlaps)
    by_class = numbers_of(sums.hota_by_class, sums.identity_by_class)
    over_masks = numbers_of(sums.hota_by_class.sum(axis=0), sums.identity_by_class.sum(axis=0))
    num_masks = sums.identity_by_class[:, :2].sum(axis=1)
    per_class = {
        category_id: {
            "name": truth.categories[category_id],
            "num_masks": int(num_masks[k]),
            **{name: _plain(name, values[k]) for name, values in by_class.items()},
        }
        for k, category_id in enumerate(sums.category_ids)
    }
    stats = {
        name: _plain(name, values.sum() if name in SUMMED else _mean(values))
        for name, values in by_class.items()
    }
    curves = {name: _mean(of) for name, of in hota_curves(sums.hota_by_class).items()}
    plain = {name: _plain(name, value) for name, value in over_masks.items()}
    return TrackingMetrics(stats, plain, per_class, curves, sums)


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the classes [K, ...]; 0 if there is none."""
    return values.sum(axis=0) / max(1, len(values))


def _plain(name: str, value: Any) -> float:
    return int(value) if name in SUMMED else float(value)
