"""Drawn single pictures in COCO's layout, of the same classes as the drawn videos.

Each picture is the one frame of a video of its own (`synthetic_drawing.py`), so that a model can
learn the shapes from pictures before it sees videos. The same arguments give the same files.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from seqformer.annotations.run_lengths import encode_masks
from seqformer.data.synthetic import JPEG_QUALITY, stamp_of, write_once
from seqformer.data.synthetic_drawing import SyntheticConfig, draw_video

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StillsPaths:
    """Where the pictures and their annotation files lie: as COCO 2017 names them."""

    train_images: Path
    train_annotations: Path
    val_images: Path
    val_annotations: Path

    @classmethod
    def under(cls, root: Path) -> StillsPaths:
        """The layout below `root`."""
        return cls(
            train_images=root / "train2017",
            train_annotations=root / "annotations" / "instances_train2017.json",
            val_images=root / "val2017",
            val_annotations=root / "annotations" / "instances_val2017.json",
        )


def make_synthetic_stills(
    root: str | Path,
    *,
    num_train: int,
    num_val: int,
    height: int,
    width: int,
    seed: int,
    config: SyntheticConfig | None = None,
) -> StillsPaths:
    """Write a folder in COCO's layout at `root`, or reuse it where it already lies there.

    Args:
        num_train: pictures of the training set.
        num_val: pictures of the validation set.
        height: of every picture, in pixels.
        width: of every picture, in pixels.

    Raises: as `make_synthetic_dataset`.
    """
    config, root = config or SyntheticConfig(), Path(root)
    for name, value, least in (
        *(("num_train", num_train, 1), ("num_val", num_val, 1), ("seed", seed, 0)),
        ("the shorter side", min(height, width), 32),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    arguments = {"kind": "stills", "num_train": num_train, "num_val": num_val, "seed": seed}
    stamp = stamp_of({**arguments, "height": height, "width": width, "config": asdict(config)})

    def write(draft: Path) -> None:
        paths = StillsPaths.under(draft)
        paths.train_annotations.parent.mkdir()
        # Splits 0 and 1 are those of the videos of the same seed.
        for split, count, images, file in (
            (2, num_train, paths.train_images, paths.train_annotations),
            (3, num_val, paths.val_images, paths.val_annotations),
        ):
            content = _write_split(images, split, count, (height, width), seed, config)
            file.write_text(json.dumps(content), encoding="utf-8")

    if write_once(root, stamp, write):
        logger.info("wrote %d + %d synthetic pictures to %s", num_train, num_val, root)
    return StillsPaths.under(root)


def _write_split(
    folder: Path, split: int, count: int, size: tuple[int, int], seed: int, config: SyntheticConfig
) -> dict[str, Any]:
    """Write the pictures of one split; returns the content of its annotation file."""
    folder.mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        rng = np.random.default_rng([seed, split, number])
        frames, owner, classes = draw_video(rng, 1, *size, config)
        name = f"{number:012d}.jpg"
        Image.fromarray(frames[0]).save(folder / name, quality=JPEG_QUALITY)
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        for instance, shape in enumerate(classes):
            visible = owner[0] == instance
            if visible.sum() < max(config.min_visible_px, 1):
                continue
            rle = encode_masks(visible[..., None])[0]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": shape + 1,
                    "iscrowd": 0,
                    "segmentation": rle,
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "area": int(visible.sum()),
                }
            )
    return {
        "info": {"description": "drawn by seqformer.data.synthetic_stills"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in enumerate(config.shapes, start=1)],
    }
