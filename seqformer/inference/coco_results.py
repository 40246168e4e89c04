"""Results of single pictures in COCO layout. Needs no torch."""

from __future__ import annotations

from typing import Any

from seqformer.data.video_sources import VideoSource
from seqformer.inference.prediction import VideoPrediction


def entries_of(prediction: VideoPrediction, source: VideoSource) -> list[dict[str, Any]]:
    """A video's or picture's part of a results file, in the layout of its kind."""
    if source.is_still:
        return picture_entries(prediction, source)
    return prediction.entries(source.video_id, source.first_file_name)


def picture_entries(prediction: VideoPrediction, source: VideoSource) -> list[dict[str, Any]]:
    """Results of one picture: image, category, score, mask as run lengths, and the box [x, y,
    width, height] in pixels that the box head gives, as published not bounded by the picture.

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
