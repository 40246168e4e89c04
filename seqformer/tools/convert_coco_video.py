"""COCO-video JSON (one entry per instance and image) -> YouTube-VIS layout (one per instance).

The layout of mmtracking's CocoVID, TAO and similar files: `images` carry `video_id` and a position
(`frame_id`, `frame_index` or `frame`), `annotations` carry `image_id` and the instance
(`instance_id` or `track_id`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqformer.annotations.json_file import read_json_file
from seqformer.annotations.masks import is_size
from seqformer.annotations.rules import is_crowd
from seqformer.tools.annotation_json import Content
from seqformer.tools.track_builder import TrackBuilder, checked_mask

logger = logging.getLogger(__name__)

POSITION_KEYS = ("frame_id", "frame_index", "frame")
TRACK_KEYS = ("instance_id", "track_id")


def from_coco_video(path: Path) -> Content:
    """Convert a file. Annotations without a mask are left out with a warning.

    Raises: FileNotFoundError; ValueError naming file, entry and what is wrong with it.
    """
    content = read_json_file(path, "annotations file", compress_lists=True)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a COCO-video object with videos, images and annotations")
    categories = [
        {
            **entry,
            "id": _integer(entry, ("id",), where),
            "name": str(entry.get("name", entry["id"])),
        }
        for where, entry in _entries(content, "categories", path)
    ]
    images_of: dict[int, list[tuple[Any, str, dict[str, Any]]]] = {}
    for where, video in _entries(content, "videos", path):
        images_of[_integer(video, ("id",), where)] = []
    place: dict[int, int] = {}
    for where, image in _entries(content, "images", path):
        number = _integer(image, ("id",), where)
        video_id = _integer(image, ("video_id",), where)
        if number in place:
            raise ValueError(f"{where} has the id {number} of an earlier image; ids must be unique")
        if video_id not in images_of:
            raise ValueError(f"{where} is of video {video_id}, which the file does not list")
        if not isinstance(image.get("file_name"), str):
            raise ValueError(f"{where} has no file_name")
        if not is_size(image.get("height"), image.get("width")):
            raise ValueError(f"{where} has no height and width in pixels")
        place[number] = video_id
        images_of[video_id].append((_integer(image, POSITION_KEYS, where), where, image))

    tracks = _tracks(content, path, place, {category["id"] for category in categories})
    builder = TrackBuilder(categories)
    for video_id, images in images_of.items():
        if not images:
            logger.warning("video %d has no images and is left out", video_id)
            continue
        images.sort(key=lambda image: image[0])
        size = images[0][2]["height"], images[0][2]["width"]
        for _, where, image in images:
            if (image["height"], image["width"]) != size:
                raise ValueError(
                    f"{where} has {image['height']} x {image['width']} pixels, other images of "
                    f"video {video_id} {size[0]} x {size[1]}; all must have one size"
                )
        made = builder.add_video([image["file_name"] for _, _, image in images], size)
        frame_of = {image["id"]: t for t, (_, _, image) in enumerate(images)}
        for track_id, entries in tracks.get(video_id, {}).items():
            for where, entry in entries:
                _add_mask(made, track_id, frame_of[entry["image_id"]], where, entry)
            if track_id in made.masks:
                classes = Counter(entry["category_id"] for _, entry in entries)
                if len(classes) > 1:
                    logger.warning(
                        "instance %d of video %d changes its category; the most frequent is taken",
                        track_id,
                        video_id,
                    )
                crowds = [is_crowd(entry.get("iscrowd"), where) for where, entry in entries]
                if any(crowds) and not all(crowds):
                    logger.warning(
                        "instance %d of video %d is a crowd in %d of %d frames, so it is none",
                        *(track_id, video_id, sum(crowds), len(crowds)),
                    )
                made.finish(track_id, classes.most_common(1)[0][0], all(crowds))
    return builder.content(f"converted from {path.name}")


def _tracks(
    content: dict[str, Any], path: Path, place: dict[int, int], category_ids: set[int]
) -> dict[int, dict[int, list[tuple[str, dict[str, Any]]]]]:
    """Annotations with a mask by video and instance."""
    tracks: dict[int, dict[int, list[tuple[str, dict[str, Any]]]]] = {}
    num_boxes = 0
    for where, entry in _entries(content, "annotations", path):
        image_id = _integer(entry, ("image_id",), where)
        track_id = _integer(entry, TRACK_KEYS, where)
        category_id = _integer(entry, ("category_id",), where)
        if image_id not in place:
            raise ValueError(f"{where} is of image {image_id}, which the file does not list")
        if category_id not in category_ids:
            raise ValueError(f"{where} is of category {category_id}, which the file does not list")
        if not entry.get("segmentation"):
            num_boxes += 1
            continue
        of_video = tracks.setdefault(place[image_id], {})
        of_video.setdefault(track_id, []).append((where, entry))
    if num_boxes:
        logger.warning("%d annotations have a box but no mask and are left out", num_boxes)
    return tracks


def _add_mask(video: Any, track_id: int, frame: int, where: str, entry: dict[str, Any]) -> None:
    if frame in video.masks.get(track_id, {}):
        raise ValueError(f"{where}: instance {track_id} has another mask in the same image")
    rle = checked_mask(entry["segmentation"], video.size, where)
    assert rle is not None  # `_tracks` leaves out what has no mask
    video.add(track_id, frame, rle)


def _entries(content: dict[str, Any], key: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise ValueError(f"{path} has no list of {key}; a COCO-video file has one")
    for i, entry in enumerate(entries):
        where = f"{path}, {key} entry {i}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where} is not an object")
        yield where, entry


def _integer(entry: dict[str, Any], keys: tuple[str, ...], where: str) -> int:
    """The first of the keys that is there."""
    key = next((key for key in keys if key in entry), None)
    if key is None:
        raise ValueError(f"{where} has no {' or '.join(keys)}")
    if type(entry[key]) is not int:
        raise ValueError(f"{where}: {key} is {entry[key]!r:.40}; needed is an integer")
    return entry[key]
