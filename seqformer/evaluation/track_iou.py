"""Spatio-temporal IoU of instance tracks: one quotient per pair, over all frames at once.

The intersections of all frames are added, the unions of all frames are added, and only then is one
divided by the other: an instance that is missed in some frames loses IoU in proportion to the
pixels missed, not to the frames. It is not the mean of the IoUs of the frames.

The frames of a track are laid end to end, so that the track is a single sequence of intervals on a
line of pixels, and the intersection of two tracks a single merge of two sorted sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.masks import Size, blank_text, is_size, parse_mask
from seqformer.annotations.run_lengths import MAX_PIXELS, read_runs


@dataclass(frozen=True)
class Track:
    """One instance through a video of T frames."""

    sizes: list[Size | None]
    """[T]: of the masks; None where the instance is absent."""
    size: Size | None
    """Of all masks; None if there are none or they differ."""
    areas: np.ndarray
    """[T], pixels; 0 where the instance is absent."""
    zeros: np.ndarray
    """[P]: of all frames laid end to end, so many pixels without the instance..."""
    ones: np.ndarray
    """[P]: ...then so many of it."""
    first: np.ndarray
    """[T + 1]: the first of these pairs of every frame, and P."""

    @cached_property
    def area(self) -> int:
        """Pixels in all frames together."""
        return int(self.areas.sum())

    @cached_property
    def line(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the instance begins and ends, [P] each, in all frames laid end to end."""
        return self.intervals(0, len(self.sizes))

    def intervals(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The same in frames start..stop - 1."""
        pairs = slice(self.first[start], self.first[stop])
        height, width = self.size or (1, MAX_PIXELS)
        is_short = (stop - start) * height * width < 2**31  # half the memory to move
        runs = self.zeros[pairs] + self.ones[pairs]
        ends = np.cumsum(runs, dtype=np.int32 if is_short else np.int64)
        return ends - self.ones[pairs], ends

    def mean_area(self) -> float:
        """Pixels per frame, over the frames that have any; 0 for a track without pixels."""
        return self.area / max(1, int(np.count_nonzero(self.areas)))


def build_tracks(segmentations: Sequence[list[Any]], canvas: Size | None) -> list[Track]:
    """Read and check several instances of a video: N lists with one entry per frame.

    Raises: InvalidMaskError whose `position` is the number of the faulty instance and whose words
        start with the frame.
    """
    sizes: list[list[Size | None]] = []
    texts: list[str] = []
    pixels: list[int] = []
    common_sizes: list[Size | None] = []
    for number, frames in enumerate(segmentations):
        try:
            track_sizes, track_texts, size = _parse_track(frames, canvas)
        except InvalidMaskError as error:
            raise InvalidMaskError(f"frame {error.position} {error}", number) from None
        sizes.append(track_sizes)
        common_sizes.append(size)
        # An absent frame is as long as the others: equal frames of two tracks then lie level.
        usual = size or next((size for size in track_sizes if size is not None), (1, 1))
        blank = blank_text(*usual)
        texts += [text or blank for text in track_texts]
        if size is None:
            pixels += [height * width for height, width in (own or usual for own in track_sizes)]
        else:
            pixels += [size[0] * size[1]] * len(track_sizes)
    try:
        runs = read_runs(texts, pixels)
    except InvalidMaskError as error:
        number = position = 0
        while error.position >= position + len(sizes[number]):
            position += len(sizes[number])
            number += 1
        raise InvalidMaskError(f"frame {error.position - position} {error}", number) from None
    areas = runs.areas
    tracks, start = [], 0
    for of_masks, size in zip(sizes, common_sizes, strict=True):
        stop = start + len(of_masks)
        first = runs.first[start : stop + 1]
        pairs = slice(first[0], first[-1])
        tracks.append(
            Track(
                of_masks,
                size,
                areas[start:stop],
                runs.zeros[pairs],
                runs.ones[pairs],
                first - first[0],
            )
        )
        start = stop
    return tracks


def _parse_track(
    frames: list[Any], canvas: Size | None
) -> tuple[list[Size | None], list[str], Size | None]:
    """The masks of one instance, not yet checked.

    Returns: sizes and compressed text, [T] each, None and "" where the instance is absent; and the
        size of all masks, None if there are none or they differ.
    Raises: InvalidMaskError whose `position` is the frame.
    """
    # Nearly all masks are text, and as large as the first: not worth a call for each.
    try:
        texts = ["" if mask is None else mask["counts"] for mask in frames]
        listed = [mask["size"] for mask in frames if mask is not None]
    except (TypeError, KeyError):
        listed = []
    if (
        listed
        and set(map(type, texts)) == {str}
        and texts.count("") == len(frames) - len(listed)
        and type(listed[0]) is list
        and listed.count(listed[0]) == len(listed)
        and len(size := tuple(listed[0])) == 2
        and is_size(*size)
    ):
        return [None if mask is None else size for mask in frames], texts, size
    sizes: list[Size | None] = []
    texts = []
    for frame, mask in enumerate(frames):
        try:
            own, text = parse_mask(mask, canvas)
        except InvalidMaskError as error:
            raise InvalidMaskError(str(error), frame) from None
        sizes.append(own)
        texts.append(text)
    different = set(sizes) - {None}
    return sizes, texts, different.pop() if len(different) == 1 else None


def mean_areas(segmentations: Sequence[list[Any]], canvas: Size | None) -> list[float]:
    """`Track.mean_area` of several instances that are compared with nothing, [N].

    Raises: InvalidMaskError as `build_tracks`.
    """
    texts: list[str] = []
    pixels: list[int] = []
    ends = [0]
    for number, frames in enumerate(segmentations):
        try:
            sizes, track_texts, size = _parse_track(frames, canvas)
        except InvalidMaskError as error:
            raise InvalidMaskError(f"of frame {error.position} {error}", number) from None
        texts += [text for text in track_texts if text]
        if size is None:
            pixels += [own[0] * own[1] for own in sizes if own is not None]
        else:
            pixels += [size[0] * size[1]] * (len(texts) - ends[-1])
        ends.append(len(texts))
    try:
        areas = read_runs(texts, pixels).areas
    except InvalidMaskError as error:
        number = int(np.searchsorted(ends, error.position, "right")) - 1
        raise InvalidMaskError(f"of one of its frames {error}", number) from None
    return [
        int(own.sum()) / max(1, int(np.count_nonzero(own)))
        for own in (areas[start:stop] for start, stop in pairwise(ends))
    ]


def track_ious(results: Sequence[Track], truths: Sequence[Track], floor: float = 0.0) -> np.ndarray:
    """IoU of every result with every ground-truth track of the same video.

    Frames are paired by position. Frames beyond the end of the shorter track do not count at all,
    and neither does a frame in which both have a mask but of different height or width.

    Args:
        results: D tracks.
        truths: G tracks.
        floor: an IoU that is seen to be smaller from the areas alone is given as 0.

    Returns: [D, G] float64: sum of intersections / sum of unions, 0 where the unions are empty.
    """
    ious = [_iou(result, truth, floor) for result in results for truth in truths]
    return np.array(ious, np.float64).reshape(len(results), len(truths))


def _iou(one: Track, other: Track, floor: float) -> float:
    if one.size == other.size is not None and len(one.sizes) == len(other.sizes):
        both = one.area + other.area
        most = int(np.minimum(one.areas, other.areas).sum())
        if not both or most / (both - most) < floor:
            return 0.0
        intersection = _intersect(*one.line, *other.line)
        union = both - intersection
    else:
        intersection, union = _overlap_by_frame(one, other)
    return intersection / union if union else 0.0


def frame_intersections(one: Track, other: Track) -> np.ndarray:
    """Pixels that two tracks share in every frame, [T] int64, T of the shorter one.

    Frames in which their masks differ in height or width share nothing.
    """
    num_frames = min(len(one.sizes), len(other.sizes))
    shared = np.zeros(num_frames, np.int64)
    if one.size is not None and one.size == other.size:
        starts, common = _common(*one.line, *other.line)
        is_common = common > 0
        height, width = one.size
        frames = starts[is_common] // (height * width)  # no interval crosses the end of a frame
        counts = np.bincount(frames, common[is_common], minlength=num_frames)
        return counts[:num_frames].astype(np.int64)
    for frame, (size, other_size) in enumerate(zip(one.sizes, other.sizes, strict=False)):
        if size == other_size is not None:
            shared[frame] = _intersect(
                *one.intervals(frame, frame + 1), *other.intervals(frame, frame + 1)
            )
    return shared


@dataclass(frozen=True, slots=True)
class FrameOverlaps:
    """Pixels of D results and G ground-truth tracks of a video, frame by frame; T frames of the
    longest of all tracks."""

    intersections: np.ndarray
    """[T, D, G] int64: shared pixels; 0 where one is absent or the two masks differ in size."""
    result_areas: np.ndarray
    """[T, D] int64; 0 beyond the end of a track."""
    truth_areas: np.ndarray
    """[T, G] int64."""


def frame_overlaps(results: Sequence[Track], truths: Sequence[Track]) -> FrameOverlaps:
    """What all results share with all ground-truth tracks of the same video in every frame."""
    num_frames = max((len(track.sizes) for track in (*results, *truths)), default=0)
    intersections = np.zeros((num_frames, len(results), len(truths)), np.int64)
    for d, result in enumerate(results):
        for g, truth in enumerate(truths):
            shared = frame_intersections(result, truth)
            intersections[: len(shared), d, g] = shared
    areas = []
    for tracks in (results, truths):
        own = np.zeros((num_frames, len(tracks)), np.int64)
        for n, track in enumerate(tracks):
            own[: len(track.areas), n] = track.areas
        areas.append(own)
    return FrameOverlaps(intersections, *areas)


def _overlap_by_frame(one: Track, other: Track) -> tuple[int, int]:
    """Pixels of all intersections and of all unions of two tracks that are not level."""
    intersection = union = 0
    for frame, (size, other_size) in enumerate(zip(one.sizes, other.sizes, strict=False)):
        if size is not None and other_size is not None and size != other_size:
            continue
        common = 0
        if size == other_size:
            common = _intersect(
                *one.intervals(frame, frame + 1), *other.intervals(frame, frame + 1)
            )
        intersection += common
        union += int(one.areas[frame] + other.areas[frame]) - common
    return intersection, union


def _intersect(
    starts: np.ndarray, ends: np.ndarray, other_starts: np.ndarray, other_ends: np.ndarray
) -> int:
    """Pixels that two sorted sequences of disjoint intervals have in common."""
    _, common = _common(starts, ends, other_starts, other_ends)
    return int(np.maximum(common, 0, out=common).sum(dtype=np.int64))


def _common(
    starts: np.ndarray, ends: np.ndarray, other_starts: np.ndarray, other_ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The intersection of two sorted sequences of disjoint intervals: starts, and lengths.

    Sort the starts of both together, and the ends. A pixel is in both if two more intervals have
    started than ended by then: the j-th end overlaps the start after the j-th by what is common;
    where that is negative, nothing is. Stable sorting finds the two sorted halves and only merges
    them.
    """
    all_starts = np.concatenate([starts, other_starts])
    all_starts.sort(kind="stable")
    all_ends = np.concatenate([ends, other_ends])
    all_ends.sort(kind="stable")
    return all_starts[1:], all_ends[:-1] - all_starts[1:]
