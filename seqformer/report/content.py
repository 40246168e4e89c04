"""What the page shows, as plain values: the numbers of an analysis, and the tracks of its videos.

Scores and shares keep four digits: the page holds tens of thousands of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from seqformer.evaluation.analysis import Analysis, Slice, VideoSummary
from seqformer.evaluation.bootstrap import Interval
from seqformer.evaluation.error_types import VideoErrors
from seqformer.evaluation.hota import ALPHAS, hota_curves
from seqformer.evaluation.ytvis_metric import YTVISMetrics
from seqformer.report.masks import MaskStore, grid_of

ERROR_TYPES = {
    "missed": ("Missed", "instances that no result finds, not even nearly"),
    "class": ("Wrong class", "the right object under another class"),
    "switch": ("Identity switch", "moves on to another object"),
    "fragment": ("Fragment", "gone in frames where the object is visible"),
    "mask": ("Poor mask", "the right object, but too little of its mask"),
    "both": ("Wrong class and mask", "another class, and too little of the mask"),
    "duplicate": ("Duplicate", "an object that a better result has found already"),
    "background": ("False positive", "nothing that is annotated"),
}
"""Kind of failure -> its name and what it means, in the order of the page."""
TRACKING_CURVES = ("HOTA", "DetA", "AssA", "LocA")
MAX_RESULTS_SHOWN = 20
"""Of a video, best first."""


def overview(analysis: Analysis, metrics: YTVISMetrics) -> dict[str, Any]:
    """All numbers that are not about single videos."""
    return {
        "stats": {name: _interval(interval) for name, interval in analysis.stats.items()},
        "official": {name: _digits(value) for name, value in metrics.stats.items()},
        "classes": _classes(analysis, metrics),
        "tracking": _tracking(analysis),
        "errors": {
            "threshold": analysis.errors.iou_threshold,
            "ap": _digits(analysis.errors.ap),
            "kinds": [
                {
                    "kind": kind,
                    "name": name,
                    "meaning": meaning,
                    "count": analysis.errors.counts[kind],
                    "cost": _digits(analysis.errors.costs[kind]),
                }
                for kind, (name, meaning) in ERROR_TYPES.items()
            ],
            "cost_of_all_false": _digits(analysis.errors.cost_of_all_false),
            "cost_of_all_missing": _digits(analysis.errors.cost_of_all_missing),
        },
        "by_length": [_slice(row) for row in analysis.by_length],
        "by_size": [_slice(row) for row in analysis.by_size],
    }


def _tracking(analysis: Analysis) -> dict[str, Any]:
    """Numbers with intervals, and the curves of all classes ("") and of each that has instances."""
    metrics = analysis.tracking
    by_class = hota_curves(metrics.sums.hota_by_class)
    curves = {"": [metrics.curves[name] for name in TRACKING_CURVES]}
    for k, (category_id, row) in enumerate(metrics.per_class.items()):
        if row["num_masks"]:
            curves[str(category_id)] = [by_class[name][k] for name in TRACKING_CURVES]
    return {
        "stats": {name: _interval(interval) for name, interval in analysis.tracking_stats.items()},
        "thresholds": [_digits(alpha, 2) for alpha in ALPHAS],
        "curves": {key: [[_digits(p) for p in c] for c in some] for key, some in curves.items()},
    }


def _classes(analysis: Analysis, metrics: YTVISMetrics) -> list[dict[str, Any]]:
    rows = []
    for k, (category_id, numbers) in enumerate(sorted(metrics.per_class.items())):
        precision = metrics.precision[:, :, k, 0, -1]  # [T, R]
        is_measured = numbers["num_instances"] > 0
        curves = [precision[0], precision[5], precision.mean(axis=0)]
        rows.append(
            {
                "id": category_id,
                "name": numbers["name"],
                "instances": numbers["num_instances"],
                **{name: _digits(numbers[name]) for name in ("AP", "AP50", "AP75", "AR100")},
                "interval": _interval(analysis.per_class[category_id]),
                "curves": [[_digits(p, 3) for p in curve] for curve in curves]
                if is_measured
                else [],
            }
        )
    return sorted(rows, key=lambda row: row["instances"] == 0)


def mean_curves(classes: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Precision at IoU 0.50, 0.75 and averaged, per recall level, mean over the classes."""
    curves = [row["curves"] for row in classes if row["curves"]]
    if not curves:
        return []
    return [[_digits(p, 3) for p in curve] for curve in np.mean(curves, axis=0)]


def video_row(summary: VideoSummary, name: str) -> dict[str, Any]:
    """One video as a line of the list: its numbers, and outcomes to count failures above any score.

    `results` holds [score, kind], `instances` [score that found it, score that nearly did] with
    null where there is none; crowds are left out.
    """
    errors = summary.errors
    counted = [
        outcome
        for instance, outcome in zip(errors.pairwise.instances, errors.instances, strict=True)
        if not instance.is_crowd
    ]
    return {
        "id": summary.video_id,
        "name": name,
        "frames": errors.pairwise.num_frames,
        "ap": _digits(summary.stats["AP"]),
        "ap50": _digits(summary.stats["AP50"]),
        "worst": _digits(min((outcome.best_iou for outcome in counted), default=-1)),
        "results": [
            [_digits(result.score), outcome.kind]
            for result, outcome in zip(errors.pairwise.results, errors.results, strict=True)
            if outcome.kind not in ("true", "ignored")
        ],
        "instances": [
            [_digits(outcome.found_score), _digits(outcome.covered_score)] for outcome in counted
        ],
    }


def video_tracks(errors: VideoErrors, shown: Sequence[int]) -> dict[str, Any] | None:
    """Masks of one video on a small grid; None if nothing tells how large its frames are.

    Args:
        shown: the frames that the page has.
    """
    video = errors.pairwise
    canvas = video.canvas or next(
        (track.size for track in (*video.instance_tracks, *video.result_tracks) if track.size), None
    )
    if canvas is None:
        return None
    store = MaskStore(canvas, shown)
    truth = [
        {
            "category": instance.category_id,
            "crowd": instance.is_crowd,
            "found": _digits(outcome.found_score),
            "covered": _digits(outcome.covered_score),
            "iou": _digits(outcome.best_iou),
            "masks": store.add(track),
        }
        for instance, track, outcome in zip(
            video.instances, video.instance_tracks, errors.instances, strict=True
        )
    ]
    results = [
        {
            "category": result.category_id,
            "score": _digits(result.score),
            "kind": outcome.kind,
            "instance": outcome.instance,
            "iou": _digits(outcome.iou),
            "masks": store.add(track),
        }
        for result, track, outcome in islice(
            zip(video.results, video.result_tracks, errors.results, strict=True), MAX_RESULTS_SHOWN
        )
    ]
    height, width = grid_of(canvas)
    return {
        "size": list(canvas),
        "grid": [height, width],
        "shown": list(shown),
        "truth": truth,
        "results": results,
        "omitted": len(video.results) - len(results),
        "masks": store.tracks,
    }


def video_name(file_names: Sequence[str], video_id: int) -> str:
    """The folder of its frames, or its id."""
    folder = str(PurePosixPath(file_names[0]).parent) if file_names else "."
    return f"video {video_id}" if folder == "." else folder


def _interval(interval: Interval) -> list[float]:
    return [_digits(number) for number in (interval.value, interval.low, interval.high)]


def _slice(row: Slice) -> dict[str, Any]:
    stats = {name: _digits(value) for name, value in row.stats.items()}
    return {"name": row.name, "videos": row.num_videos, "instances": row.num_instances, **stats}


def _digits(value: float | None, digits: int = 4) -> Any:
    """The number, rounded; None stays None."""
    return None if value is None else round(float(value), digits)
