"""Single pictures through a predictor, and their results in COCO layout. Needs no torch.

The mask features of a network cover its input up to a whole number of cells, which is more than the
input where its sides are no multiples of a cell. Videos are published with masks stretched from
that area over the frame; pictures with masks that are cut to the input. So a picture's masks are
made for the area that the features cover, and cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from seqformer.annotations.run_lengths import RLE, decode_mask, encode_masks
from seqformer.data.video_sources import VideoSource
from seqformer.inference.prediction import VideoPrediction

if TYPE_CHECKING:
    from seqformer.inference.frame_loader import Resized
    from seqformer.inference.predictor import Predictor

Size = tuple[int, int]


def predict(
    predictor: Predictor, source: VideoSource, frames: Iterable[Resized]
) -> tuple[VideoPrediction, list[dict[str, Any]]]:
    """Run a video or a picture.

    Args:
        frames: of the source, resized.

    Returns: what was found, and its part of a results file in the layout of its kind.
    Raises: as `Predictor.predict_resized`.
    """
    if not source.is_still:
        prediction = predictor.predict_resized(frames)
        return prediction, prediction.entries(source.video_id, source.first_file_name)
    ((resized, size),) = frames
    area = covered(size, resized.shape[:2], predictor.network.mask_stride)
    prediction = cut(predictor.predict_resized([(resized, area)]), size)
    return prediction, picture_entries(prediction, source)


def covered(size: Size, resized: Size, stride: int) -> Size:
    """(height, width) in pixels of the picture that the mask features cover.

    Args:
        size: of the picture.
        resized: of the network's input.
        stride: input pixels per cell of the features.
    """
    height, width = (
        round(own * (-(-side // stride) * stride) / side)
        for own, side in zip(size, resized, strict=True)
    )
    return height, width


def cut(prediction: VideoPrediction, size: Size) -> VideoPrediction:
    """What was found in an area that reaches beyond the picture, in the picture alone.

    Args:
        size: (height, width) of the picture, at the upper left of the area.
    """
    area = prediction.frame_size
    if area == size:
        return prediction
    scale = np.array([size[1] / area[1], size[0] / area[0]] * 2, np.float32)
    masks: dict[str, RLE] = {}  # detections of a query share theirs

    def cut_mask(rle: RLE | None) -> RLE | None:
        if rle is None:
            return None
        if rle["counts"] not in masks:
            mask = decode_mask(rle)[: size[0], : size[1]]
            masks[rle["counts"]] = encode_masks(mask[..., None])[0]
        return masks[rle["counts"]]

    detections = tuple(
        replace(
            detection,
            segmentations=tuple(map(cut_mask, detection.segmentations)),
            boxes_xyxy=detection.boxes_xyxy * scale,
        )
        for detection in prediction.detections
    )
    return replace(prediction, detections=detections, frame_size=size)


def picture_entries(prediction: VideoPrediction, source: VideoSource) -> list[dict[str, Any]]:
    """Results of one picture: image, category, score, mask as run lengths, and the box [x, y,
    width, height] in pixels that the box head gives, cut at the borders of the picture.

    A picture that no annotation file lists has its file name besides.
    """
    entries = []
    for detection in prediction.detections:
        if detection.segmentations[0] is None:
            continue  # below the smallest score
        x0, y0, x1, y1 = (float(value) for value in detection.boxes_xyxy[0])
        entry: dict[str, Any] = {
            "image_id": source.video_id,
            "category_id": detection.category_id,
            "score": detection.score,
            "segmentation": detection.segmentations[0],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
        }
        if source.listed_size is None:
            entry["file_name"] = source.first_file_name
        entries.append(entry)
    return entries
