"""Builds annotations in YouTube-VIS layout from masks that come frame by frame."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.masks import Size, parse_mask
from seqformer.annotations.run_lengths import RLE, encode_masks, read_runs
from seqformer.data.pictures import open_picture
from seqformer.files import natural_key
from seqformer.tools.annotation_json import Content

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass
class TrackBuilder:
    """The file that is being made."""

    categories: list[dict[str, Any]]
    """id and name of each."""
    videos: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add_video(self, file_names: Sequence[str], size: tuple[int, ...]) -> VideoTracks:
        """Begin a video of frames of (height, width)."""
        number = len(self.videos) + 1
        self.videos.append(
            {
                "id": number,
                "height": size[0],
                "width": size[1],
                "length": len(file_names),
                "file_names": list(file_names),
            }
        )
        return VideoTracks(self, number, len(file_names), (size[0], size[1]))

    def content(self, description: str) -> Content:
        """The finished file. Raises: ValueError when it has no video."""
        if not self.videos:
            raise ValueError("nothing was found to convert; check the folders")
        used = Counter(entry["category_id"] for entry in self.annotations)
        logger.info(
            "%d videos, %d frames, %d instances; %s",
            len(self.videos),
            sum(video["length"] for video in self.videos),
            len(self.annotations),
            ", ".join(f"{c['name']} {used[c['id']]}" for c in self.categories if used[c["id"]]),
        )
        return {
            "info": {"description": description},
            "videos": self.videos,
            "categories": self.categories,
            "annotations": self.annotations,
        }


@dataclass
class VideoTracks:
    """The instances of one video."""

    builder: TrackBuilder
    video_id: int
    num_frames: int
    size: Size
    masks: dict[Any, dict[int, RLE]] = field(default_factory=dict)

    def add(self, key: Hashable, frame: int, rle: RLE) -> None:
        """The compressed mask of one instance in one frame."""
        self.masks.setdefault(key, {})[frame] = rle

    def add_labels(self, frame: int, labels: np.ndarray, ignored: Iterable[int]) -> None:
        """All instances of a frame from a map [H, W] of their numbers; 0 is the ground."""
        numbers = np.setdiff1d(np.unique(labels), [0, *ignored])
        if numbers.size:
            stack = np.asfortranarray(labels[..., None] == numbers)
            for number, rle in zip(numbers.tolist(), encode_masks(stack), strict=True):
                self.add(number, frame, rle)

    def finish(self, key: Hashable, category_id: int, is_crowd: bool = False) -> None:
        """Write an instance into the file."""
        masks = self.masks[key]
        frames = sorted(masks)
        rles = [masks[t] for t in frames]
        areas, boxes = coco_mask.area(rles).tolist(), coco_mask.toBbox(rles).tolist()
        lists: dict[str, list[Any]] = {
            name: [None] * self.num_frames for name in ("segmentations", "bboxes", "areas")
        }
        for t, rle, box, area in zip(frames, rles, boxes, areas, strict=True):
            if area:
                lists["segmentations"][t] = {"size": list(self.size), "counts": rle["counts"]}
                lists["bboxes"][t], lists["areas"][t] = box, area
        if any(lists["segmentations"]):
            self.builder.annotations.append(
                {
                    "id": len(self.builder.annotations) + 1,
                    "video_id": self.video_id,
                    "category_id": category_id,
                    "iscrowd": int(is_crowd),
                    "height": self.size[0],
                    "width": self.size[1],
                    **lists,
                }
            )


def mask_folders(root: Path) -> list[tuple[str, list[Path]]]:
    """Folders below `root` that hold PNG files: relative name, and the files in natural order.

    Raises: FileNotFoundError; ValueError when there is none.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"mask folder {root} does not exist; check the path")
    folders: dict[Path, list[Path]] = {}
    for path in root.rglob("*.png"):
        folders.setdefault(path.parent, []).append(path)
    if not folders:
        raise ValueError(f"{root} holds no .png masks, nor does any folder below it")
    return [
        (
            folder.relative_to(root).as_posix(),
            sorted(paths, key=lambda path: natural_key(str(path))),
        )
        for folder, paths in sorted(folders.items(), key=lambda item: natural_key(str(item[0])))
    ]


def image_names(folder: str, masks: Sequence[Path], images: Path | None) -> list[str]:
    """The frames that belong to masks: same folder and name, any image suffix.

    Without `images` they are taken to be .jpg files.
    Raises: FileNotFoundError naming the mask whose frame is missing.
    """
    prefix = "" if folder == "." else f"{folder}/"
    if images is None:
        return [f"{prefix}{mask.stem}.jpg" for mask in masks]
    names = []
    for mask in masks:
        suffixes = [s for s in IMAGE_SUFFIXES if (images / f"{prefix}{mask.stem}{s}").is_file()]
        if not suffixes:
            raise FileNotFoundError(
                f"there is no frame {images / (prefix + mask.stem)} with suffix "
                f"{', '.join(IMAGE_SUFFIXES)} for the mask {mask}; check --images"
            )
        names.append(f"{prefix}{mask.stem}{suffixes[0]}")
    return names


def read_labels(path: Path) -> tuple[np.ndarray, str]:
    """A PNG of one number per pixel: [H, W] integers, and Pillow's mode.

    Raises: ValueError when the file is no such image.
    """
    with open_picture(path, "mask") as (image, _):
        labels, mode = np.array(image), image.mode
    if labels.ndim != 2:
        raise ValueError(
            f"mask {path} has colours ({mode}) instead of one number per pixel; save it as a "
            "palette or grey image"
        )
    return labels.astype(np.int32), mode


def checked_mask(mask: Any, size: Size, where: str) -> RLE | None:
    """A mask of a frame of (height, width), compressed; None where there is none.

    Args:
        mask: run lengths or polygons, as the file has them.
        where: file and entry.

    Raises: ValueError when it cannot be read or has another size.
    """
    try:
        own, text = parse_mask(mask, size)
        if own is None:
            return None
        read_runs([text], [own[0] * own[1]])
    except InvalidMaskError as error:
        raise ValueError(f"{where}: the mask {error}") from None
    if own != size:
        raise ValueError(
            f"{where}: the mask has {own[0]} x {own[1]} pixels, its image {size[0]} x {size[1]}"
        )
    return {"size": list(own), "counts": text}


def check_size(labels: np.ndarray, size: Size, path: Path) -> None:
    """Raises: ValueError when a mask has another (height, width) than its video."""
    if labels.shape != size:
        raise ValueError(
            f"mask {path} has {labels.shape[0]} x {labels.shape[1]} pixels, the first one of its "
            f"video {size[0]} x {size[1]}; all masks of a video must have one size"
        )
