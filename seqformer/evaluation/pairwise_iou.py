"""All results of a video against all its instances, whatever their class.

The metric compares results with instances of their own class alone. To say what went wrong with a
result, it must be compared with the others too, and frame by frame.

Letters: T frames, D results of one video by descending score, G its instances in file order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from seqformer.annotations.masks import Size
from seqformer.evaluation.average_precision import MAX_RESULTS
from seqformer.evaluation.matching import Matches, match
from seqformer.evaluation.records import GroundTruth, Instance, Result, group_by, read_tracks
from seqformer.evaluation.track_iou import Track, frame_intersections, track_ious


@dataclass(frozen=True)
class PairwiseIoU:
    """One video that has results or instances."""

    video_id: int
    canvas: Size | None
    instances: list[Instance]
    instance_tracks: list[Track]
    results: list[Result]
    """D, the best of every class, by descending score."""
    result_tracks: list[Track]
    ious: np.ndarray
    """[D, G], of all classes."""
    num_frames: int
    """T, of the longest track."""

    @property
    def num_pixels(self) -> int:
        """Of a frame; 0 if neither the video nor a mask tells."""
        sizes = (track.size for track in (*self.instance_tracks, *self.result_tracks))
        height, width = self.canvas or next((s for s in sizes if s), (0, 0))
        return height * width

    @cached_property
    def result_classes(self) -> np.ndarray:
        """[D]."""
        return np.array([result.category_id for result in self.results], np.uint64)

    @cached_property
    def instance_classes(self) -> np.ndarray:
        """[G]."""
        return np.array([instance.category_id for instance in self.instances], np.uint64)

    @cached_property
    def is_crowd(self) -> np.ndarray:
        """[G] bool."""
        return np.array([instance.is_crowd for instance in self.instances], bool)

    @cached_property
    def instance_areas(self) -> np.ndarray:
        """[G], mean pixels per frame as the metric takes them."""
        pairs = zip(self.instances, self.instance_tracks, strict=True)
        return np.array([t.mean_area() if i.area is None else i.area for i, t in pairs], np.float64)

    def match(self, area_ranges: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray, Matches]]:
        """Per class that occurs: positions of its results, of its instances, and their matches.

        Args:
            area_ranges: [A, 2] pixels, both ends included.
        """
        areas = np.array([track.mean_area() for track in self.result_tracks], np.float64)
        matches_of = {}
        for category_id in np.union1d(self.result_classes, self.instance_classes).tolist():
            d = np.flatnonzero(self.result_classes == category_id)
            g = np.flatnonzero(self.instance_classes == category_id)
            matches_of[category_id] = (
                d,
                g,
                match(
                    self.ious[np.ix_(d, g)],
                    areas[d],
                    self.instance_areas[g],
                    self.is_crowd[g],
                    area_ranges,
                ),
            )
        return matches_of

    def without_masks(self) -> PairwiseIoU:
        """The same with empty lists of tracks, which take most of the memory."""
        return replace(self, instance_tracks=[], result_tracks=[])

    def frame_areas(self, track: Track) -> np.ndarray:
        """Pixels of a track in every frame, [T]; 0 beyond its end."""
        return np.pad(track.areas, (0, self.num_frames - len(track.areas))).astype(np.int64)

    def shared_with_instances(self, d: int) -> np.ndarray:
        """Pixels that a result shares with every instance in every frame, [G, T]."""
        shared = np.zeros((len(self.instances), self.num_frames), np.int64)
        for g in np.flatnonzero(self.ious[d] > 0):
            common = frame_intersections(self.result_tracks[d], self.instance_tracks[g])
            shared[g, : len(common)] = common
        return shared


def read_pairwise_iou(truth: GroundTruth, results: list[Result]) -> Iterator[PairwiseIoU]:
    """The videos that have results or instances, in ascending order of their ids."""
    instances_of = group_by(truth.instances, "video_id")
    results_of = group_by(sorted(results, key=lambda result: -result.score), "video_id")
    for video_id in sorted(instances_of.keys() | results_of.keys()):
        canvas = truth.videos[video_id]
        instances = instances_of.get(video_id, [])
        seen: dict[int, int] = {}
        best = []
        for result in results_of.get(video_id, []):
            seen[result.category_id] = seen.get(result.category_id, 0) + 1
            if seen[result.category_id] <= max(MAX_RESULTS):
                best.append(result)
        tracks = read_tracks([*instances, *best], canvas)
        of_instances, of_results = tracks[: len(instances)], tracks[len(instances) :]
        yield PairwiseIoU(
            video_id,
            canvas,
            instances,
            of_instances,
            best,
            of_results,
            track_ious(of_results, of_instances),
            max(len(track.sizes) for track in tracks),
        )
