"""Small evaluation problems for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 10, 20


def rle(mask: np.ndarray) -> dict[str, Any]:
    """[H, W] of 0 and 1 as it stands in a results file."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def rectangle(
    top: int, left: int, height: int = 4, width: int = 5, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> dict[str, Any]:
    mask = np.zeros(size, np.uint8)
    mask[top : top + height, left : left + width] = 1
    return rle(mask)


def annotation(segmentations: list, **changes: Any) -> dict[str, Any]:
    areas = [s and int(coco_mask.area(s)) for s in segmentations]
    entry = {"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 0, "areas": areas}
    return {**entry, "segmentations": segmentations, **changes}


def result(segmentations: list, score: float = 0.5, **changes: Any) -> dict[str, Any]:
    entry = {"video_id": 1, "category_id": 1, "score": score, "segmentations": segmentations}
    return {**entry, **changes}


def problem(
    annotations: list, num_videos: int = 1, categories: tuple[int, ...] = (1,)
) -> dict[str, Any]:
    """An annotation file."""
    return {
        "videos": [{"id": i + 1, "height": HEIGHT, "width": WIDTH} for i in range(num_videos)],
        "categories": [{"id": i, "name": f"class {i}"} for i in categories],
        "annotations": annotations,
    }
