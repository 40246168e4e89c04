"""Ground truth and results of a video, drawn side by side, the same object in the same colour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment

from seqformer.annotations.packed import Video
from seqformer.annotations.packed_masks import decode_segmentation
from seqformer.annotations.run_lengths import encode_masks
from seqformer.visualization.drawing import (
    DrawnTrack,
    Track,
    best_tracks,
    iterate_drawn,
    label_font,
    overlaps,
)

SAME_OBJECT_IOU = 0.1
"""Tracks that overlap less are different objects, for the purpose of colours."""
GAP = 4
"""Pixels between the two pictures."""


def tracks_from_ground_truth(video: Video) -> list[DrawnTrack]:
    """The annotated objects of a video. Raises: ValueError naming a broken mask."""
    tracks = []
    for number, instance in enumerate(video.instances):
        masks = []
        for frame, segmentation in enumerate(instance.segmentations):
            try:
                mask = decode_segmentation(segmentation, video.height, video.width)
            except ValueError as error:
                raise ValueError(
                    f"annotation {instance.annotation_id} of video {video.id}, frame {frame}: the "
                    f"mask {error}"
                ) from None
            masks.append(encode_masks(mask[..., None])[0] if mask.any() else None)
        tracks.append(
            DrawnTrack(
                category_id=instance.category_id, score=1.0, segmentations=masks, query=number
            )
        )
    return tracks


def side_by_side(
    frames: Iterable[np.ndarray],
    truth: Sequence[DrawnTrack],
    predictions: Sequence[Track],
    names: Mapping[int, str],
    min_score: float = 0.0,
) -> Iterator[np.ndarray]:
    """Frames with the ground truth on the left and the predictions on the right.

    A prediction has the colour of the object that it overlaps most (one to one); the others have
    colours of their own. Memory for a frame at a time.

    Args: as in `draw_video`; `truth` from `tracks_from_ground_truth`.
    """
    predicted = best_tracks(predictions, min_score)
    colours = {("truth", number): number for number in range(len(truth))}
    iou = overlaps(truth, predicted)
    matches = {
        int(j): int(i)
        for i, j in zip(*linear_sum_assignment(iou, maximize=True), strict=True)
        if iou[i, j] >= SAME_OBJECT_IOU
    }
    left_tracks = [replace(t, query=("truth", number)) for number, t in enumerate(truth)]
    right_tracks = [
        DrawnTrack(
            category_id=track.category_id,
            score=track.score,
            segmentations=track.segmentations,
            boxes_xyxy=getattr(track, "boxes_xyxy", None),
            query=("truth", matches[j]) if j in matches else ("other", j),
        )
        for j, track in enumerate(predicted)
    ]
    lefts, rights = _twice(frames)
    drawn_left = iterate_drawn(lefts, left_tracks, names, colours=colours)
    drawn_right = iterate_drawn(rights, right_tracks, names, colours=colours)
    for left, right in zip(drawn_left, drawn_right, strict=True):
        gap = np.full((left.shape[0], GAP, 3), 255, np.uint8)
        picture = np.concatenate([left, gap, right], axis=1)
        yield _titled(picture, {0: "ground truth", left.shape[1] + GAP: "prediction"})


def _twice(
    frames: Iterable[np.ndarray],
) -> tuple[Iterator[np.ndarray], Iterator[np.ndarray]]:
    """Two iterators over the same frames, to be advanced in turns."""
    last: list[np.ndarray] = []

    def first() -> Iterator[np.ndarray]:
        for frame in frames:
            last[:] = [frame]
            yield frame

    def second() -> Iterator[np.ndarray]:
        while last:
            yield last.pop()

    return first(), second()


def _titled(picture: np.ndarray, titles: Mapping[int, str]) -> np.ndarray:
    """A bar above the picture, with a title at each of the columns."""
    font = label_font(16)
    bar = Image.new("RGB", (picture.shape[1], 22), (32, 32, 32))
    pen = ImageDraw.Draw(bar)
    for column, title in titles.items():
        pen.text((column + 4, 1), title, font=font, fill=(255, 255, 255))
    return np.concatenate([np.asarray(bar), picture])
