"""Results of single pictures, drawn."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seqformer.files import write_bytes, writing_to
from seqformer.visualization.drawing import iterate_drawn, tracks_from_entries


def as_video_entries(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Results in COCO layout as those of one-frame videos. Raises: ValueError for other entries."""
    made = []
    for entry in entries:
        if not isinstance(entry, Mapping) or not {"image_id", "segmentation"} <= entry.keys():
            raise ValueError(
                f"a result is {entry!r:.60}, without image_id or segmentation; needed are results "
                "in COCO layout"
            )
        made.append(
            {
                "video_id": entry["image_id"],
                "category_id": entry.get("category_id"),
                "score": entry.get("score"),
                "segmentations": [entry["segmentation"]],
            }
        )
    return made


def draw_picture(
    frame: np.ndarray,
    entries: Iterable[Mapping[str, Any]],
    names: Mapping[int, str],
    min_score: float,
) -> np.ndarray:
    """The picture, uint8 RGB [H, W, 3], with its results in COCO layout on it.

    Raises: ValueError for entries that are no such results.
    """
    tracks = tracks_from_entries(as_video_entries(entries))
    (drawn,) = iterate_drawn([frame], tracks, names, min_score)
    return drawn


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG. Raises: WriteError."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.getvalue())
