"""Beyond the official numbers: which videos, sizes, lengths and kinds of error make the AP.

`analyse` reads both files once. The official AP among its numbers is that of `evaluate`.

Letters: V videos, K classes, T IoU thresholds, W weightings of the videos.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from seqformer.config import RESAMPLES
from seqformer.evaluation.ap_accumulator import APAccumulator, VideoMatches, mean_of_valid
from seqformer.evaluation.bootstrap import Interval, resample_weights
from seqformer.evaluation.error_types import (
    ErrorBreakdown,
    VideoErrors,
    break_down,
    find_errors,
    threshold_index,
)
from seqformer.evaluation.groups import Groups
from seqformer.evaluation.matching import AREA_RANGES
from seqformer.evaluation.pairwise_iou import read_pairwise_iou
from seqformer.evaluation.records import GroundTruth, Parsed, read_ground_truth, read_predictions
from seqformer.evaluation.result_warnings import warn_about_results
from seqformer.evaluation.tracking import TrackingMetrics, tracking_metrics

logger = logging.getLogger(__name__)

SIZE_SHARES = {
    "below 1 % of the frame": (0.0, 0.01),
    "1 to 5 %": (0.01, 0.05),
    "5 to 20 %": (0.05, 0.2),
    "above 20 %": (0.2, 1.0),
}
"""Mean share of the frame that an instance covers while it is visible; both ends included."""
STATS = ("AP", "AP50", "AP75", "AR100")
TRACKING_STATS = ("HOTA", "DetA", "AssA", "LocA", "IDF1", "IDSW")
"""The last is a count."""


@dataclass(frozen=True, slots=True)
class Slice:
    """AP of a part of the data."""

    name: str
    num_videos: int
    """Videos with instances of this part."""
    num_instances: int
    """Crowds left out."""
    stats: dict[str, float]
    """AP, AP50, AP75, AR100 in 0..1; -1 where there is no instance."""


@dataclass(frozen=True, slots=True)
class VideoSummary:
    """One video that has results or instances."""

    video_id: int
    stats: dict[str, float]
    """As if it were the only video. Classes of which it has no instance do not count."""
    errors: VideoErrors


@dataclass(frozen=True)
class Analysis:
    """What `analyse` found. Numbers in 0..1; -1 where there is nothing to measure them with."""

    truth: GroundTruth
    stats: dict[str, Interval]
    """AP, AP50, AP75, AR100 with 95 % bootstrap intervals over the videos."""
    per_class: dict[int, Interval]
    """AP by category id, likewise."""
    errors: ErrorBreakdown
    by_length: list[Slice]
    by_size: list[Slice]
    """By share of the frame (`SIZE_SHARES`)."""
    by_area: list[Slice]
    """By the official limits in pixels (`AREA_RANGES`)."""
    videos: list[VideoSummary]
    """In ascending order of ids."""
    tracking: TrackingMetrics
    tracking_stats: dict[str, Interval]
    """`TRACKING_STATS`, averaged over the classes, likewise."""
    accumulators: list[APAccumulator] = field(repr=False)
    """Per class, ascending ids; over all listed videos, ascending ids."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the single results."""
        return {
            "stats": {name: asdict(interval) for name, interval in self.stats.items()},
            "per_class": {str(k): asdict(interval) for k, interval in self.per_class.items()},
            "errors": asdict(self.errors),
            "by_length": [asdict(row) for row in self.by_length],
            "by_size": [asdict(row) for row in self.by_size],
            "by_area": [asdict(row) for row in self.by_area],
            "tracking": {
                **self.tracking.to_dict(),
                "intervals": {name: asdict(of) for name, of in self.tracking_stats.items()},
            },
            "videos": {str(video.video_id): video.stats for video in self.videos},
        }


def analyse(
    annotations: str | Path | Parsed | dict[str, Any],
    results: str | Path | Parsed | list[Any],
    *,
    iou_threshold: float = 0.5,
    resamples: int = RESAMPLES,
    seed: int = 0,
    length_edges: Sequence[int] | None = None,
    keep_masks: bool = False,
    warns: bool = True,
) -> Analysis:
    """Score results and take the score apart; both files may be paths or parsed JSON.

    Args:
        iou_threshold: of the error breakdown; one of 0.50, 0.55, ..., 0.95.
        resamples: bootstrap resamples of the videos.
        seed: of the bootstrap.
        length_edges: longest video of every group but the last, in frames; by default the groups
            have equal numbers of videos.
        keep_masks: leave the tracks in the videos of the analysis, to draw them.
        warns: say what is odd about the results, as `evaluate` does.

    Raises: FileNotFoundError; ValueError naming file and entry of what cannot be scored, or the
        argument that makes no sense.
    """
    threshold_index(iou_threshold)
    truth = read_ground_truth(annotations)
    predictions = read_predictions(results, truth)
    video_ids = sorted(truth.videos)
    position = {video_id: v for v, video_id in enumerate(video_ids)}
    weights = resample_weights(len(video_ids), resamples, seed)
    official = np.array(list(AREA_RANGES.values()))
    shares = np.array(list(SIZE_SHARES.values()))
    matches_of: dict[int, list[VideoMatches]] = {k: [] for k in sorted(truth.categories)}
    errors = []
    lengths = np.zeros(len(video_ids), np.int64)
    for video in read_pairwise_iou(truth, predictions.records()):
        v = position[video.video_id]
        lengths[v] = video.num_frames
        matched = video.match(np.concatenate([official, shares * video.num_pixels]))
        for category_id, (d, _, matches) in matched.items():
            scores = np.array([video.results[i].score for i in d], np.float64)
            matches_of[category_id].append(VideoMatches(v, scores, matches))
        of_video = find_errors(video, matched, iou_threshold)
        if not keep_masks:
            of_video = replace(of_video, pairwise=video.without_masks())
        errors.append(of_video)
    if warns:
        warn_about_results(truth, predictions, Groups.of(truth, predictions))

    areas = range(len(official) + len(shares))
    accumulators = [
        [APAccumulator.of(of_class, area) for of_class in matches_of.values()] for area in areas
    ]
    everything = np.ones((1, len(video_ids)), np.int64)
    names = [*AREA_RANGES, *SIZE_SHARES]
    slices = [_slice(names[a], accumulators[a], everything[0]) for a in areas]
    tracking = tracking_metrics(truth, predictions)
    per_video = stats_of(accumulators[0], np.eye(len(video_ids), dtype=np.int64))
    return Analysis(
        truth=truth,
        stats=_intervals(accumulators[0], everything, weights),
        per_class=_class_intervals(list(matches_of), accumulators[0], everything, weights),
        errors=break_down(errors, iou_threshold),
        by_length=_by_length(accumulators[0], lengths, length_edges),
        by_size=slices[len(official) :],
        by_area=slices[: len(official)],
        videos=[
            VideoSummary(
                video.pairwise.video_id,
                {
                    name: float(of[position[video.pairwise.video_id]])
                    for name, of in per_video.items()
                },
                video,
            )
            for video in errors
        ],
        tracking=tracking,
        tracking_stats=_tracking_intervals(tracking, weights),
        accumulators=accumulators[0],
    )


def stats_of(accumulators: Sequence[APAccumulator], weights: np.ndarray) -> dict[str, np.ndarray]:
    """`STATS` under every weighting [W, V] of the videos, [W] each."""
    if not accumulators:
        return {name: np.full(len(weights), -1.0) for name in STATS}
    ap = np.stack(
        [accumulator.average_precision(weights) for accumulator in accumulators], axis=1
    )  # [W, K, T]
    recall = np.stack([accumulator.recall(weights) for accumulator in accumulators], axis=1)
    at_50, at_75 = threshold_index(0.5), threshold_index(0.75)
    return {
        "AP": mean_of_valid(ap, (1, 2)),
        "AP50": mean_of_valid(ap[..., at_50], 1),
        "AP75": mean_of_valid(ap[..., at_75], 1),
        "AR100": mean_of_valid(recall, (1, 2)),
    }


def _intervals(
    accumulators: Sequence[APAccumulator], everything: np.ndarray, weights: np.ndarray
) -> dict[str, Interval]:
    values, resampled = stats_of(accumulators, everything), stats_of(accumulators, weights)
    return {name: Interval.of(values[name][0], resampled[name]) for name in STATS}


def _tracking_intervals(tracking: TrackingMetrics, weights: np.ndarray) -> dict[str, Interval]:
    resampled = tracking.sums.mean_numbers(weights)
    return {name: Interval.of(tracking.stats[name], resampled[name]) for name in TRACKING_STATS}


def _class_intervals(
    category_ids: list[int],
    accumulators: Sequence[APAccumulator],
    everything: np.ndarray,
    weights: np.ndarray,
) -> dict[int, Interval]:
    intervals = {}
    for category_id, accumulator in zip(category_ids, accumulators, strict=True):
        value = float(mean_of_valid(accumulator.average_precision(everything)))
        resampled = mean_of_valid(accumulator.average_precision(weights), 1)
        intervals[category_id] = Interval.of(value, resampled)
    return intervals


def _slice(name: str, accumulators: Sequence[APAccumulator], weights: np.ndarray) -> Slice:
    stats = stats_of(accumulators, weights[None])
    num_instances = np.zeros(len(weights))
    for accumulator in accumulators:
        np.add.at(num_instances, accumulator.videos, accumulator.num_instances)
    num_instances *= weights
    return Slice(
        name,
        int(np.count_nonzero(num_instances)),
        int(num_instances.sum()),
        {name: float(values[0]) for name, values in stats.items()},
    )


def _by_length(
    accumulators: Sequence[APAccumulator], lengths: np.ndarray, edges: Sequence[int] | None
) -> list[Slice]:
    """Groups of videos up to each edge, and beyond the last."""
    known = lengths[lengths > 0]
    if edges is None:
        thirds = np.quantile(known, [1 / 3, 2 / 3], method="lower") if known.size else []
        edges = [int(edge) for edge in np.unique(thirds) if edge < known.max()]
    elif list(edges) != sorted(set(edges)) or min(edges, default=1) < 1:
        raise ValueError(f"the video lengths that part the groups must rise from 1 on, got {edges}")
    low, rows = 1, []
    for high in (*edges, max(int(known.max(initial=1)), edges[-1] + 1 if edges else 1)):
        inside = (lengths >= low) & (lengths <= high)
        span = f"{low} to {high}" if low < high else str(high)
        name = f"{span} frame" if high == 1 else f"{span} frames"
        rows.append(_slice(name, accumulators, inside.astype(np.int64)))
        low = high + 1
    return rows
