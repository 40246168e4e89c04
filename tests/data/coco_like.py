"""A folder like COCO's, drawn by rule: 32 pictures of its usual sizes, polygons, crowds as runs.

Only integers and sums of them, so that it is the same on every machine: the golden numbers of
`test_stills_parity.py` belong to these files.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZES = ((480, 640), (427, 640), (640, 480), (333, 500), (500, 375), (640, 427), (612, 612))
"""(height, width), taken in turn; every eighth picture is tall and thin, so that 1333 bounds it."""
NUM_PICTURES = 32
CATEGORIES = {1: "person", 3: "car", 17: "cat", 44: "bottle", 90: "toothbrush"}


def draw_coco_like(folder: Path) -> tuple[Path, Path]:
    """Write pictures and annotations. Returns: the folder of the pictures, and the JSON file."""
    images, annotations = [], []
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for number in range(1, NUM_PICTURES + 1):
        rng = np.random.default_rng([7, number])
        height, width = (700, 250) if number % 8 == 5 else SIZES[number % len(SIZES)]
        pixels = picture(rng, height, width)
        name = f"{number:012d}.png"
        Image.fromarray(pixels[..., 0] if number % 8 == 0 else pixels).save(pictures / name)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for _ in range(int(rng.integers(2, 7))):
            parts = [outline(rng, height, width) for _ in range(int(rng.integers(1, 3)))]
            annotations.append(entry(len(annotations) + 1, number, rng, parts))
        if number % 5 == 0:
            left = height * int(rng.integers(1, width // 2))
            crowd = {
                "counts": [left, height * 20, height * width - left - height * 20],
                "size": [height, width],
            }
            annotations.append(
                {
                    **entry(len(annotations) + 1, number, rng, [[0, 0, 20, 0, 20, 20]]),
                    "segmentation": crowd,
                    "iscrowd": 1,
                }
            )
    images.append({"id": 99, "file_name": "empty.png", "height": 32, "width": 48})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return pictures, file


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Blocks of colour with a ramp and grain over them, uint8 [H, W, 3]."""
    blocks = rng.integers(0, 200, (height // 24 + 1, width // 24 + 1, 3))
    blocks = blocks.repeat(24, axis=0).repeat(24, axis=1)[:height, :width]
    ramp = (np.arange(height)[:, None] * 3 + np.arange(width) * 5) % 40
    return (blocks + ramp[..., None] + rng.integers(0, 16, (height, width, 3))).astype(np.uint8)


def outline(rng: np.random.Generator, height: int, width: int) -> list[float]:
    """A star-shaped polygon in quarters of a pixel."""
    radius = int(rng.integers(12, min(height, width) // 3))
    x = int(rng.integers(radius, width - radius))
    y = int(rng.integers(radius, height - radius))
    reach = rng.integers(radius // 2, radius + 1, 9)
    points = []
    for corner, length in enumerate(reach):
        angle = 2 * math.pi * corner / len(reach)
        points += [x + round(4 * length * math.cos(angle)) / 4]
        points += [y + round(4 * length * math.sin(angle)) / 4]
    return points


def entry(
    number: int, image: int, rng: np.random.Generator, parts: list[list[float]]
) -> dict[str, Any]:
    """An annotation with the box around its polygons."""
    xs = [x for part in parts for x in part[0::2]]
    ys = [y for part in parts for y in part[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    category = list(CATEGORIES)[int(rng.integers(len(CATEGORIES)))]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": parts,
        "bbox": box,
        "area": box[2] * box[3] / 2,
        "iscrowd": 0,
    }
