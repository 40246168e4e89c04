"""Two pictures with targets, drawn by rule, for a step of the stage of COCO pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

SIZES = ((96, 150), (120, 88))
"""(height, width): the batch is padded on both sides."""
LABELS = ((1, 90, 44), (17, 3))
"""COCO's category ids are the outputs."""


def make_stills() -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Pictures uint8 [H, W, 3], and of each: labels [N], boxes [N, 4] (cx, cy, w, h in 0..1), masks
    bool [N, H, W] (ellipses in the boxes) and size."""
    images, targets = [], []
    for number, ((height, width), labels) in enumerate(zip(SIZES, LABELS, strict=True)):
        rng = np.random.default_rng([11, number])
        blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
        image = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width].astype(np.uint8)
        boxes, masks = [], []
        for n, _ in enumerate(labels):
            half_w, half_h = int(rng.integers(8, width // 4)), int(rng.integers(8, height // 4))
            x = int(rng.integers(half_w, width - half_w))
            y = int(rng.integers(half_h, height - half_h))
            boxes.append([x / width, y / height, 2 * half_w / width, 2 * half_h / height])
            rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
            mask = ((rows - y) / half_h) ** 2 + ((columns - x) / half_w) ** 2 < 1
            masks.append(mask)
            image[mask] = (40 * n, 200 - 30 * n, 90)
        images.append(image)
        targets.append(
            {
                "labels": np.array(labels, np.int64),
                "boxes": np.array(boxes, np.float32),
                "masks": np.stack(masks),
                "size": (height, width),
            }
        )
    return images, targets
