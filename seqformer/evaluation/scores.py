"""All numbers of a results file: AP and its kin, and the tracking metrics beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqformer.evaluation.metrics_table import format_table
from seqformer.evaluation.records import Parsed, read_ground_truth, read_predictions
from seqformer.evaluation.ytvis_metric import (
    YTVISMetrics,
    garbage_collection_paused,
    ytvis_metrics,
)

if TYPE_CHECKING:
    from seqformer.evaluation.tracking import TrackingMetrics


@dataclass(frozen=True)
class Scores:
    """What `score` found."""

    metrics: YTVISMetrics
    tracking: TrackingMetrics | None
    """None where they were not asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: those of `metrics`, and `tracking` beside them."""
        if self.tracking is None:
            return self.metrics.to_dict()
        return {**self.metrics.to_dict(), "tracking": self.tracking.to_dict()}

    def table(self) -> str:
        """Both tables."""
        if self.tracking is None:
            return format_table(self.metrics)
        from seqformer.evaluation.tracking_table import format_tracking

        return f"{format_table(self.metrics)}\n\n{format_tracking(self.tracking)}"


@garbage_collection_paused()
def score(
    annotations: str | Path | Parsed | dict[str, Any],
    results: str | Path | Parsed | list[Any],
    threads: int = 1,
    *,
    ap_only: bool = False,
) -> Scores:
    """Score results against YouTube-VIS annotations; each may be a path or the parsed JSON.

    Args:
        threads: of the C code; the numbers do not depend on it.
        ap_only: leave the tracking metrics out.

    Raises: as `evaluate`.
    """
    truth = read_ground_truth(annotations)
    predictions = read_predictions(results, truth)
    metrics = ytvis_metrics(truth, predictions, threads)
    if ap_only:
        return Scores(metrics, None)
    from seqformer.evaluation.tracking import tracking_metrics

    return Scores(metrics, tracking_metrics(truth, predictions, threads))
