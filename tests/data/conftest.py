"""A small data set on disk: real JPEG files and an annotation file with every mask format."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

HEIGHT, WIDTH, NUM_FRAMES = 48, 64, 6


@dataclass
class SmallDataset:
    """Where it lies and what is in it; change `content` and call `save`."""

    images: Path
    annotations: Path
    content: dict[str, Any]

    def save(self) -> Path:
        self.annotations.write_text(json.dumps(self.content))
        return self.annotations


def rectangle(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def compressed(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> SmallDataset:
    """Two videos. In each a moving rectangle (category 7), and one of category 3 that is absent
    from frame 2; the second video also has a crowd."""
    root = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {
        "videos": [],
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
        "annotations": [],
    }
    for video in (11, 5):
        names = [f"v{video}/{t:05d}.jpg" for t in range(NUM_FRAMES)]
        (root / "images" / f"v{video}").mkdir(parents=True)
        for name in names:
            coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            coarse.resize((WIDTH, HEIGHT)).save(root / "images" / name, quality=95)
        content["videos"].append(
            {"id": video, "height": HEIGHT, "width": WIDTH, "file_names": names}
        )
        moving = [(4 + 3 * t, 6 + t, 20, 16) for t in range(NUM_FRAMES)]
        partly: list = [(30, 20 + t, 14, 10) for t in range(NUM_FRAMES)]
        partly[2] = None
        tracks = [(7, 0, moving, compressed), (3, 0, partly, uncompressed)]
        if video == 5:
            tracks.append((7, 1, moving, compressed))
        for category, crowd, boxes, encode in tracks:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "video_id": video,
                    "category_id": category,
                    "iscrowd": crowd,
                    "bboxes": [box and list(map(float, box)) for box in boxes],
                    "segmentations": [box and encode(rectangle(*box)) for box in boxes],
                }
            )
    x, y, w, h = 4, 6, 20, 16  # the polygon of the first frame's rectangle
    content["annotations"][0]["segmentations"][0] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return SmallDataset(root / "images", root / "unused.json", content)


@pytest.fixture
def small(_template: SmallDataset, tmp_path: Path) -> SmallDataset:
    """The data set with an annotation file of its own; the images are shared and read only."""
    data = SmallDataset(
        _template.images, tmp_path / "instances.json", copy.deepcopy(_template.content)
    )
    data.save()
    return data


@pytest.fixture
def one_line() -> Callable[[BaseException], str]:
    """The message of an error, which must be a single sentence on a single line."""

    def check(error: BaseException) -> str:
        message = str(error)
        assert message and "\n" not in message
        return message

    return check
