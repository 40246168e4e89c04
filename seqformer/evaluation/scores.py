"""All numbers of a results file: AP and its kin, and the tracking metrics beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqformer.evaluation.metrics_table import format_table
from seqformer.evaluation.records import (
    Parsed,
    load_json,
    read_ground_truth,
    read_predictions,
)
from seqformer.evaluation.ytvis_metric import (
    YTVISMetrics,
    garbage_collection_paused,
    ytvis_metrics,
)

if TYPE_CHECKING:  # importing these is a good part of the time that the AP alone takes
    from seqformer.evaluation.ap_of_parts import Part
    from seqformer.evaluation.tracking import TrackingMetrics


@dataclass(frozen=True)
class Scores:
    """What `score` found."""

    metrics: YTVISMetrics
    tracking: TrackingMetrics | None
    """None where they were not asked for."""
    parts: dict[str, Part]
    """Numbers of parts of the data by their names; empty where there are none."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: those of `metrics`, with `tracking` and `parts` beside them."""
        beside: dict[str, Any] = {}
        if self.tracking is not None:
            beside["tracking"] = self.tracking.to_dict()
        if self.parts:
            beside["parts"] = {name: dict(part) for name, part in self.parts.items()}
        return {**self.metrics.to_dict(), **beside}

    def table(self) -> str:
        """All tables."""
        tables = [format_table(self.metrics)]
        if self.tracking is not None:
            from seqformer.evaluation.tracking_table import format_tracking

            tables.append(format_tracking(self.tracking))
        if self.parts:
            from seqformer.evaluation.ap_of_parts import format_parts

            tables.append(format_parts(self.parts))
        return "\n\n".join(tables)


@garbage_collection_paused()
def score(
    annotations: str | Path | Parsed | dict[str, Any],
    results: str | Path | Parsed | list[Any],
    threads: int = 1,
    long_list: Path | None = None,
    long_from: int | None = None,
    *,
    ap_only: bool = False,
) -> Scores:
    """Score results against YouTube-VIS annotations; each may be a path or the parsed JSON.

    Args:
        threads: of the C code; the numbers do not depend on it.
        long_list: file with ids or folders of the long videos, which are scored apart.
        long_from: likewise, videos of so many frames and more.
        ap_only: leave the tracking metrics and the parts out.

    Raises: as `evaluate`.
    """
    parsed = load_json(annotations, "annotations")
    truth = read_ground_truth(parsed)
    predictions = read_predictions(results, truth)
    if ap_only:
        return Scores(ytvis_metrics(truth, predictions, threads), None, {})
    from seqformer.evaluation.ap_of_parts import (
        length_parts,
        long_videos,
        occlusion_parts,
        read_video_list,
    )
    from seqformer.evaluation.c_tracking import all_in_c
    from seqformer.evaluation.tracking import tracking_metrics

    curves, sums = all_in_c(truth, predictions, threads) or (None, None)
    metrics = ytvis_metrics(truth, predictions, threads, curves)
    tracking = tracking_metrics(truth, predictions, threads, sums)
    parts = occlusion_parts(truth, predictions, parsed.content.get("annotations") or ())
    if long_list is not None or long_from is not None:
        listed = None if long_list is None else read_video_list(long_list)
        long = long_videos(truth, parsed.content["videos"], listed, long_from or 0)
        parts |= length_parts(truth, predictions, long, threads)
    return Scores(metrics, tracking, parts)
