"""What instances and results of one video and class share, frame by frame.

This is all that the tracking metrics (`hota`, `identity`) need. Frames beyond the end of the video
are left out, and frames in which two masks differ in height or width share nothing.

Letters: T frames of the video, G ground-truth instances and D results, both in file order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from seqformer.evaluation.records import GroundTruth, Record, Result, group_by, read_tracks
from seqformer.evaluation.track_iou import Track, frame_overlaps


@dataclass(frozen=True, slots=True)
class ClassOverlaps:
    """One video and class that has instances, results or both."""

    video_id: int
    category_id: int
    truth_present: np.ndarray
    """[G, T] bool: the instance has a mask, which may be empty."""
    results_present: np.ndarray
    """[D, T] bool."""
    truth_areas: np.ndarray
    """[G, T] int64, pixels."""
    result_areas: np.ndarray
    """[D, T] int64, pixels."""
    shared: np.ndarray
    """[D, G, T] int64, pixels."""

    def similarity(self) -> np.ndarray:
        """IoU of every instance with every result in every frame, [T, G, D]; 0 without overlap."""
        union = self.truth_areas[None] + self.result_areas[:, None] - self.shared
        return (self.shared / np.maximum(union, 1)).transpose(2, 1, 0)


def read_class_overlaps(truth: GroundTruth, results: Sequence[Result]) -> Iterator[ClassOverlaps]:
    """Every video and class that has instances or results, in ascending order of both ids.

    Raises: ValueError naming file, entry and frame of a mask that cannot be read.
    """
    instances_of = group_by(truth.instances, "video_id")
    results_of = group_by(results, "video_id")
    for video_id in sorted(instances_of.keys() | results_of.keys()):
        of_video = instances_of.get(video_id, []), results_of.get(video_id, [])
        num_frames = truth.lengths.get(video_id)
        if num_frames is None:
            num_frames = max(len(r.segmentations) for records in of_video for r in records)
        instances = group_by(of_video[0], "category_id")
        own = group_by(of_video[1], "category_id")
        records: list[Record] = [*of_video[0], *of_video[1]]
        tracks = iter(read_tracks(records, truth.videos[video_id]))
        tracks_of = {id(record): next(tracks) for record in records}
        for category_id in sorted(instances.keys() | own.keys()):
            yield _overlaps(
                (video_id, category_id),
                [tracks_of[id(record)] for record in instances.get(category_id, [])],
                [tracks_of[id(record)] for record in own.get(category_id, [])],
                num_frames,
            )


def _overlaps(
    key: tuple[int, int], instances: Sequence[Track], results: Sequence[Track], num_frames: int
) -> ClassOverlaps:
    overlaps = frame_overlaps(results, instances)
    shared = _in_frames(overlaps.intersections, num_frames)
    return ClassOverlaps(
        *key,
        _present(instances, num_frames),
        _present(results, num_frames),
        _in_frames(overlaps.truth_areas, num_frames),
        _in_frames(overlaps.result_areas, num_frames),
        shared,
    )


def _in_frames(values: np.ndarray, num_frames: int) -> np.ndarray:
    """Of the frames of the video, the last axis instead of the first; 0 beyond the end."""
    own = values[:num_frames]
    missing = [(0, num_frames - len(own)), *[(0, 0)] * (values.ndim - 1)]
    return np.moveaxis(np.pad(own, missing), 0, -1)


def _present(tracks: Sequence[Track], num_frames: int) -> np.ndarray:
    present = np.zeros((len(tracks), num_frames), bool)
    for row, track in zip(present, tracks, strict=True):
        own = track.sizes[:num_frames]
        row[: len(own)] = [size is not None for size in own]
    return present
