"""Videos as an annotation tool has them, and how they become a data set in YouTube-VIS layout."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from seqformer.annotations.masks import Size
from seqformer.annotations.run_lengths import RLE, encode_masks
from seqformer.tools.annotation_json import Content
from seqformer.tools.track_builder import TrackBuilder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DrawnFrame:
    """One frame of a video."""

    number: int
    """As the tool counts."""
    name: str
    """As the tool calls it."""
    image: str | None
    """Its picture in the export; None if that holds none."""


@dataclass
class DrawnInstance:
    """One object."""

    label: str
    masks: dict[int, RLE] = field(default_factory=dict)
    """By position of the frame."""
    occluded: set[int] = field(default_factory=set)
    """Positions of the frames in which the tool says that it is partly hidden."""
    is_crowd: bool = False

    def add(self, frame: int, mask: np.ndarray) -> None:
        """Add pixels [H, W] to a frame; those of several shapes are joined."""
        rle = encode_masks(np.asfortranarray(mask[..., None]))[0]
        if frame in self.masks:
            merged = coco_mask.merge([self.masks[frame], rle])
            rle = {"size": list(merged["size"]), "counts": merged["counts"].decode("ascii")}
        self.masks[frame] = rle


@dataclass
class DrawnVideo:
    """One video."""

    name: str
    size: Size
    frames: list[DrawnFrame]
    instances: dict[Hashable, DrawnInstance] = field(default_factory=dict)
    folder: str = ""
    """Of its pictures in the export."""

    def instance(self, key: Hashable, label: str) -> DrawnInstance:
        """The instance of a key; a new one if the key is new."""
        return self.instances.setdefault(key, DrawnInstance(label))


def to_content(
    videos: Sequence[DrawnVideo],
    labels: Sequence[str],
    file_names: Sequence[Sequence[str]],
    tool: str,
) -> Content:
    """The annotation file.

    Args:
        labels: classes in the order of the tool; those that only occur come after.
        file_names: of the frames of every video.
        tool: written beside the videos, with the tool's names of the frames, for the way back.

    Raises: ValueError when there is no video.
    """
    used = [instance.label for video in videos for instance in video.instances.values()]
    names = list(dict.fromkeys([*labels, *used]))
    ids = {name: k + 1 for k, name in enumerate(names)}
    builder = TrackBuilder([{"id": ids[name], "name": name} for name in names])
    num_empty = 0
    for video, own_names in zip(videos, file_names, strict=True):
        tracks = builder.add_video(own_names, video.size)
        builder.videos[-1]["source"] = {
            "tool": tool,
            "name": video.name,
            "folder": video.folder,
            "numbers": [frame.number for frame in video.frames],
            "names": [frame.name for frame in video.frames],
        }
        for key, instance in video.instances.items():
            for frame, rle in instance.masks.items():
                tracks.add(key, frame, rle)
            before = len(builder.annotations)
            if instance.masks:
                tracks.finish(key, ids[instance.label], instance.is_crowd)
            if len(builder.annotations) == before:
                num_empty += 1
            elif instance.occluded:
                entry: dict[str, Any] = builder.annotations[-1]
                entry["occluded"] = [int(t in instance.occluded) for t in range(len(own_names))]
    if num_empty:
        logger.warning("%d objects have no pixel in any frame and are left out", num_empty)
    return builder.content(f"converted from {tool}")
