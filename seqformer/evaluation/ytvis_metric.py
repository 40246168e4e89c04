"""The YouTube-VIS metric: average precision and recall over spatio-temporal IoU thresholds.

`evaluate` gives the numbers of the official evaluator. Where that one stumbles over unusual input
(no results at all, an annotation id 0, a missing `iscrowd`), this one does what the definition asks
for, or refuses in words.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from seqformer.evaluation.average_precision import (
    MAX_RESULTS,
    RECALL_LEVELS,
    Curves,
    accumulate,
    summarise,
)
from seqformer.evaluation.c_scoring import NotReadableError, c_scoring, curves_of
from seqformer.evaluation.groups import Groups
from seqformer.evaluation.matching import AREA_RANGES, IOU_THRESHOLDS, Matches, match
from seqformer.evaluation.records import (
    GroundTruth,
    Instance,
    Parsed,
    Predictions,
    Result,
    group_by,
    read_ground_truth,
    read_mean_areas,
    read_predictions,
    read_results,
    read_tracks,
)
from seqformer.evaluation.result_warnings import warn_about_results
from seqformer.evaluation.track_iou import Track, track_ious

logger = logging.getLogger(__name__)

_FLOOR = float(IOU_THRESHOLDS.min())
"""Smaller IoUs match nothing."""


@dataclass(frozen=True)
class YTVISMetrics:
    """The numbers, and the arrays that they are means of.

    Letters: T IoU thresholds, R recall levels, K categories by ascending id, A area ranges, M
    limits on results. A number is in 0..1, or -1 where there is nothing to measure it with.
    """

    stats: dict[str, float]
    """AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl."""
    per_class: dict[int, dict[str, Any]]
    """By category id: name, num_instances (crowds left out) and the same twelve numbers."""
    precision: np.ndarray
    """[T, R, K, A, M]."""
    recall: np.ndarray
    """[T, K, A, M]."""
    scores: np.ndarray
    """[T, R, K, A, M]: the score at which a recall level is reached, 0 if it never is."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the twelve numbers, and `per_class` by category id as text."""
        per_class = {str(category_id): dict(row) for category_id, row in self.per_class.items()}
        return {**self.stats, "per_class": per_class}


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Parsed files are very many containers without cycles: looking for some is wasted time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@garbage_collection_paused()
def evaluate(
    annotations: str | Path | Parsed | dict[str, Any],
    results: str | Path | Parsed | list[Any],
    threads: int = 1,
) -> YTVISMetrics:
    """Score results against YouTube-VIS annotations; each may be a path or the parsed JSON.

    Args:
        threads: of the C code; the numbers do not depend on it.

    Raises: FileNotFoundError for a missing file; ValueError naming file and entry for content that
        cannot be scored.
    """
    truth = read_ground_truth(annotations)
    return ytvis_metrics(truth, read_predictions(results, truth), threads)


def ytvis_metrics(
    truth: GroundTruth, predictions: Predictions, threads: int = 1, curves: Curves | None = None
) -> YTVISMetrics:
    """The same from files that were read before.

    Args:
        curves: of these results, where they are known already.

    Raises: ValueError naming a mask's place.
    """
    logger.info(
        "scoring %d results against %d instances of %d categories in %d videos",
        len(predictions),
        len(truth.instances),
        len(truth.categories),
        len(truth.videos),
    )
    groups = Groups.of(truth, predictions)
    if curves is None:
        curves = _curves_in_c(truth, predictions, groups, threads)
    if curves is None:
        curves = _curves(truth, predictions)
    warn_about_results(truth, predictions, groups)
    per_class = {
        category_id: {
            "name": truth.categories[category_id],
            "num_instances": int(curves.num_instances[k]),
            **summarise(curves.precision[:, :, k], curves.recall[:, k]),
        }
        for k, category_id in enumerate(sorted(truth.categories))
    }
    stats = summarise(curves.precision, curves.recall)
    return YTVISMetrics(stats, per_class, curves.precision, curves.recall, curves.scores)


def plain_stats(truth: GroundTruth, predictions: Predictions, threads: int = 1) -> dict[str, float]:
    """The twelve numbers alone, without a word. Raises: as `ytvis_metrics`."""
    groups = Groups.of(truth, predictions)
    curves = _curves_in_c(truth, predictions, groups, threads)
    if curves is None:
        curves = _curves(truth, predictions)
    return summarise(curves.precision, curves.recall)


def _curves_in_c(
    truth: GroundTruth, predictions: Predictions, groups: Groups, threads: int
) -> Curves | None:
    """None without a compiler, and where a mask cannot be read: the plain path says which."""
    try:
        scoring = c_scoring(truth, predictions, groups, threads)
        if scoring is None:
            return None
        return curves_of(scoring.library, truth, predictions, scoring.match(_FLOOR))
    except NotReadableError:
        return None


def _curves(truth: GroundTruth, predictions: Predictions) -> Curves:
    """The same in NumPy. Raises: ValueError naming a mask that cannot be read."""
    matched: dict[int, list[tuple[np.ndarray, Matches]]] = {k: [] for k in truth.categories}
    for group in read_groups(truth, predictions.records()):
        own = np.array([result.score for result in group.results])
        matched[group.category_id].append((own, group.match(_FLOOR)))
    category_ids = sorted(truth.categories)
    shape = (len(IOU_THRESHOLDS), len(category_ids), len(AREA_RANGES), len(MAX_RESULTS))
    recall = np.empty(shape)
    precision = np.empty((shape[0], len(RECALL_LEVELS), *shape[1:]))
    score_at = np.empty_like(precision)
    num_instances = np.zeros(len(category_ids), np.int64)
    for k, category_id in enumerate(category_ids):
        scores, matches = (
            zip(*matched[category_id], strict=True) if matched[category_id] else ([], [])
        )
        longest = max(map(len, scores), default=0)
        for m, limit in enumerate(MAX_RESULTS):
            if not m or longest > MAX_RESULTS[m - 1]:  # otherwise all have been used before
                curves = accumulate(scores, matches, limit)
            precision[:, :, k, :, m], recall[:, k, :, m], score_at[:, :, k, :, m] = curves
        num_instances[k] = sum(int(of_video.num_instances[0]) for of_video in matches)
    return Curves(precision, recall, score_at, num_instances)


def pairwise_ious(
    annotations: str | Path | Parsed | dict[str, Any], results: str | Path | Parsed | list[Any]
) -> np.ndarray:
    """The IoUs of all results and instances that are compared, to see what went wrong where.

    Returns: [pairs, 5] float64: video id, category id, index of the result, annotation id, IoU.
    """
    truth = read_ground_truth(annotations)
    rows = [
        (group.video_id, group.category_id, result.number, instance.number, iou)
        for group in read_groups(truth, read_results(results, truth))
        for result, ious in zip(group.results, group.ious(), strict=True)
        for instance, iou in zip(group.instances, ious, strict=True)
    ]
    return np.array(rows, np.float64).reshape(-1, 5)


@dataclass(frozen=True, slots=True)
class Group:
    """What one video has of one category."""

    video_id: int
    category_id: int
    instances: list[Instance]
    """G, in file order."""
    instance_tracks: list[Track]
    results: list[Result]
    """D, the best by descending score."""
    result_tracks: list[Track]
    """[D], or empty where there is no instance to compare them with."""
    result_areas: list[float]
    """[D], mean pixels per frame."""

    def ious(self, floor: float = 0.0) -> np.ndarray:
        """[D, G]; see `track_ious`."""
        if not self.instances:
            return np.zeros((len(self.results), 0))
        return track_ious(self.result_tracks, self.instance_tracks, floor)

    def match(self, floor: float) -> Matches:
        """Assign results to instances."""
        instance_areas = [
            track.mean_area() if instance.area is None else instance.area
            for instance, track in zip(self.instances, self.instance_tracks, strict=True)
        ]
        return match(
            self.ious(floor),
            np.array(self.result_areas),
            np.array(instance_areas),
            np.array([instance.is_crowd for instance in self.instances], bool),
        )


def read_groups(truth: GroundTruth, results: list[Result]) -> Iterator[Group]:
    """Read the masks video by video, in ascending order of video id."""
    instances_of = group_by(truth.instances, "video_id")
    results_of = group_by(sorted(results, key=lambda result: -result.score), "video_id")
    for video_id in sorted(instances_of.keys() | results_of.keys()):
        instances = group_by(instances_of.get(video_id, []), "category_id")
        ranked = group_by(results_of.get(video_id, []), "category_id")
        best = {category_id: some[: max(MAX_RESULTS)] for category_id, some in ranked.items()}
        # All categories together, because NumPy is slow on small batches. Results of categories
        # without an instance in the video (most of them, as a rule) need their areas only.
        compared = {
            category_id: some for category_id, some in best.items() if category_id in instances
        }
        groups: list[list[Any]] = [*instances.values(), *compared.values()]
        records = [record for some in groups for record in some]
        tracks = iter(read_tracks(records, truth.videos[video_id]))
        instance_tracks = {k: list(islice(tracks, len(some))) for k, some in instances.items()}
        result_tracks = {k: list(islice(tracks, len(some))) for k, some in compared.items()}
        alone = {k: some for k, some in best.items() if k not in instances}
        records = [record for some in alone.values() for record in some]
        means = iter(read_mean_areas(records, truth.videos[video_id]))
        mean_areas = {k: list(islice(means, len(some))) for k, some in alone.items()}
        for category_id in sorted(instances.keys() | best.keys()):
            ranked_results = best.get(category_id, [])
            of_results = result_tracks.get(category_id, [])
            if category_id in instances:
                areas = [track.mean_area() for track in of_results]
            else:
                areas = mean_areas[category_id]
            yield Group(
                video_id,
                category_id,
                instances.get(category_id, []),
                instance_tracks.get(category_id, []),
                ranked_results,
                of_results,
                areas,
            )
