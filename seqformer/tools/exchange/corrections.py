"""Annotations or results as the shapes that go back to an annotation tool, video by video."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqformer.annotations.masks import Size
from seqformer.annotations.run_lengths import RLE, compress_runs, decode_mask
from seqformer.evaluation.records import (
    Instance,
    Result,
    group_by,
    read_ground_truth,
    read_results,
    read_tracks,
)
from seqformer.tools.annotation_json import Content, read_sound_content

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GivenInstance:
    """One object that goes back."""

    label: str
    masks: list[RLE | None]
    """One per frame; None where it is absent."""
    occluded: list[bool]
    """One per frame."""
    is_crowd: bool
    score: float | None
    """None for an annotation."""

    def mask(self, frame: int) -> np.ndarray | None:
        """Its pixels, bool [H, W]; None where it is absent or has no pixel."""
        rle = self.masks[frame]
        if rle is None:
            return None
        mask = decode_mask(rle)
        return mask if mask.any() else None


@dataclass(frozen=True)
class GivenVideo:
    """One video that goes back."""

    name: str
    size: Size
    file_names: list[str]
    """Of the frames, from the image folder."""
    numbers: list[int]
    """Of the frames, as the tool counts; 0, 1, 2, ... where it never saw them."""
    names: list[str]
    """Of the frames, as the tool calls them; their file names where it never saw them."""
    folder: str
    """Of the frames in the tool's export."""
    instances: list[GivenInstance]


def read_corrections(
    annotations: Path, results: Path | None, min_score: float
) -> tuple[list[GivenVideo], list[str]]:
    """What goes back, and all class names.

    Args:
        annotations: the data set; without results its own instances go back.
        results: of a model, on the videos of the data set.
        min_score: results below are left out.

    Raises: FileNotFoundError; ValueError naming file and entry of what cannot be read.
    """
    content = read_sound_content(annotations)
    truth = read_ground_truth(content)
    labels = [truth.categories[entry["id"]] for entry in content["categories"]]
    records: list[Instance] | list[Result] = truth.instances
    if results is not None:
        made = read_results(results, truth)
        records = [result for result in made if result.score >= min_score]
        logger.info("%d of %d results have a score of %g", len(records), len(made), min_score)
    occluded = _occluded(content) if results is None else {}
    records_of = group_by(records, "video_id")  # type: ignore[type-var]
    videos = [
        _video(video, records_of.get(video["id"], []), truth.categories, occluded)
        for video in content["videos"]
    ]
    return videos, labels


def _occluded(content: Content) -> dict[int, list[Any]]:
    """By annotation id."""
    return {
        entry["id"]: entry["occluded"]
        for entry in content["annotations"]
        if type(entry.get("id")) is int and isinstance(entry.get("occluded"), list)
    }


def _video(
    video: dict[str, Any],
    records: list[Any],
    categories: dict[int, str],
    occluded: dict[int, list[Any]],
) -> GivenVideo:
    names = video.get("file_names")
    size = video.get("height"), video.get("width")
    if not isinstance(names, list) or not names or None in size:
        raise ValueError(
            f"video {video['id']} has no height, width or file_names, which a tool needs"
        )
    height, width = int(size[0] or 0), int(size[1] or 0)
    source = video.get("source")
    source = source if isinstance(source, dict) else {}
    tool_names, numbers = source.get("names"), source.get("numbers")
    if not isinstance(tool_names, list) or len(tool_names) != len(names):
        tool_names = [str(name) for name in names]
    if not isinstance(numbers, list) or len(numbers) != len(names):
        numbers = list(range(len(names)))
    folder = names[0].rpartition("/")[0]
    return GivenVideo(
        str(source.get("name") or folder or f"video {video['id']}"),
        (height, width),
        [str(name) for name in names],
        [int(number) for number in numbers],
        [str(name) for name in tool_names],
        str(source.get("folder") or ""),
        list(_instances(records, (height, width), len(names), categories, occluded)),
    )


def _instances(
    records: list[Any],
    size: Size,
    num_frames: int,
    categories: dict[int, str],
    occluded: dict[int, list[Any]],
) -> Iterator[GivenInstance]:
    for record, track in zip(records, read_tracks(records, size), strict=True):
        masks: list[RLE | None] = []
        for t in range(num_frames):
            if t >= len(track.sizes) or track.sizes[t] is None or not track.areas[t]:
                masks.append(None)
                continue
            if track.sizes[t] != size:
                raise ValueError(
                    f"{record.where}: the mask of frame {t} has another size than its video"
                )
            pairs = slice(track.first[t], track.first[t + 1])
            runs = np.stack([track.zeros[pairs], track.ones[pairs]], axis=1).ravel()
            masks.append({"size": list(size), "counts": compress_runs(runs.astype(np.int64))})
        hidden = occluded.get(record.number, []) if isinstance(record, Instance) else []
        yield GivenInstance(
            categories[record.category_id],
            masks,
            [t < len(hidden) and hidden[t] in (1, True) for t in range(num_frames)],
            isinstance(record, Instance) and record.is_crowd,
            record.score if isinstance(record, Result) else None,
        )
