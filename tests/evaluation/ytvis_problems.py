"""Small evaluation problems for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
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


@st.composite
def random_problems(draw):
    """Several videos and classes with rectangles of random place, size, presence and score."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_videos = draw(st.integers(1, 4))

    def track():
        box = rng.integers(0, 4, 2), rng.integers(1, 5, 2)
        return [
            None if rng.random() < 0.2 else rectangle(*(box[0] + rng.integers(0, 2, 2)), *box[1])
            for _ in range(3)
        ]

    def place():
        return {
            "video_id": int(rng.integers(num_videos)) + 1,
            "category_id": int(rng.integers(2)) + 1,
        }

    annotations = [
        annotation(track(), id=i + 1, iscrowd=int(rng.random() < 0.2), **place())
        for i in range(draw(st.integers(1, 6)))
    ]
    results = [
        result(track(), float(rng.choice([0.2, 0.5, 0.5, 0.9])), **place())
        for _ in range(draw(st.integers(0, 8)))
    ]
    return problem(annotations, num_videos, (1, 2)), results
