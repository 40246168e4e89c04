"""COCO files whose images are the frames of videos, as CVAT and others export them.

A folder of `file_name` is a video, or `video_id` says which it is. The object is `track_id` or
`instance_id` of an annotation or of its `attributes`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from seqformer.annotations.masks import is_size
from seqformer.annotations.rules import is_crowd
from seqformer.annotations.run_lengths import decode_mask
from seqformer.files import natural_key
from seqformer.tools.exchange.archive import Archive
from seqformer.tools.exchange.drawn_videos import DrawnFrame, DrawnVideo
from seqformer.tools.track_builder import checked_mask

logger = logging.getLogger(__name__)

TRACK_KEYS = ("track_id", "instance_id", "object_id")
POSITION_KEYS = ("frame_id", "frame_index", "frame")


def read_coco(archive: Archive, name: str) -> tuple[list[DrawnVideo], list[str]]:
    """The videos of a COCO file of an export, and its categories in their order.

    Raises: ValueError naming the file, the entry and what is wrong with it.
    """
    where = name if archive.path.name == name else f"{archive.path}, {name}"
    try:
        content = orjson.loads(archive.read(name))
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{where} is not complete JSON ({error})") from None
    entries = {key: _list(content, key, where) for key in ("images", "categories", "annotations")}
    labels = {}
    for i, category in enumerate(entries["categories"]):
        number = _whole(category, "id", f"{where}, categories entry {i}")
        labels[number] = str(category.get("name", number))
    videos, place = _videos(entries["images"], archive, where)
    counts: Counter[str] = Counter()
    for i, entry in enumerate(entries["annotations"]):
        _add(entry, place, labels, f"{where}, annotations entry {i}", counts, i)
    for kind, text in {
        "box": "annotations have a box but no mask and are left out",
        "unlinked": "annotations have no track_id, so each is an object of one frame",
        "tool": "masks are crowds only because of how CVAT writes masks; they are taken as objects",
    }.items():
        if counts[kind]:
            logger.warning("%s: %d %s", where, counts[kind], text)
    return videos, list(labels.values())


def _videos(
    images: list[Any], archive: Archive, where: str
) -> tuple[list[DrawnVideo], dict[int, tuple[DrawnVideo, int]]]:
    """The videos, and the video and position of every image id."""
    groups: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
    for i, image in enumerate(images):
        own = f"{where}, images entry {i}"
        number = _whole(image, "id", own)
        if not isinstance(image.get("file_name"), str):
            raise ValueError(f"{own} has no file_name")
        if not is_size(image.get("height"), image.get("width")):
            raise ValueError(f"{own} has no height and width in pixels")
        path = PurePosixPath(image["file_name"].replace("\\", "/"))
        key = str(image.get("video_id", path.parent))
        position = next((image[k] for k in POSITION_KEYS if type(image.get(k)) is int), 0)
        groups.setdefault(key, []).append(((position, natural_key(str(path)), number), image))
    videos, place = [], {}
    for key, own_images in groups.items():
        own_images.sort(key=lambda pair: pair[0])
        first = own_images[0][1]
        size = first["height"], first["width"]
        title = archive.path.stem if key == "." else str(PurePosixPath(first["file_name"]).parent)
        video = DrawnVideo(title if title != "." else f"video {key}", size, [])
        for t, (_, image) in enumerate(own_images):
            if (image["height"], image["width"]) != size:
                raise ValueError(
                    f"{where}: the image {image['file_name']} has {image['height']} x "
                    f"{image['width']} pixels, the first of its video {size[0]} x {size[1]}"
                )
            if image["id"] in place:
                raise ValueError(f"{where}: two images have the id {image['id']}")
            place[image["id"]] = video, t
            found = archive.find_image(image["file_name"])
            video.frames.append(DrawnFrame(t, image["file_name"], found))
        videos.append(video)
    return videos, place


def _add(
    entry: Any,
    place: dict[int, tuple[DrawnVideo, int]],
    labels: dict[int, str],
    where: str,
    counts: Counter[str],
    number: int,
) -> None:
    image_id = _whole(entry, "image_id", where)
    category_id = _whole(entry, "category_id", where)
    if image_id not in place:
        raise ValueError(f"{where} is of image {image_id}, which the file does not list")
    if category_id not in labels:
        raise ValueError(f"{where} is of category {category_id}, which the file does not list")
    video, t = place[image_id]
    rle = checked_mask(entry.get("segmentation"), video.size, where)
    if rle is None:
        counts["box"] += 1
        return
    attributes = entry.get("attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    tracks = [owner.get(name) for name in TRACK_KEYS for owner in (entry, attributes)]
    track = next((number for number in tracks if number is not None), None)
    key: Hashable = ("entry", number) if track is None else ("track", str(track))
    counts["unlinked"] += track is None
    instance = video.instance(key, labels[category_id])
    instance.add(t, decode_mask(rle))
    if attributes.get("occluded") in (True, 1):
        instance.occluded.add(t)
    crowd = is_crowd(entry.get("iscrowd"), where)
    if crowd and "occluded" in attributes and not attributes.get("is_crowd"):
        counts["tool"] += 1  # CVAT and Datumaro write every mask that is no polygon as a crowd
        crowd = False
    instance.is_crowd |= crowd


def _list(content: Any, key: str, where: str) -> list[Any]:
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise ValueError(f"{where} has no list of {key}; a COCO file has one")
    return content[key]


def _whole(entry: Any, key: str, where: str) -> int:
    if not isinstance(entry, dict) or type(entry.get(key)) is not int:
        raise ValueError(f"{where} has no {key}; needed is a whole number")
    return entry[key]


def coco_files(archive: Archive) -> list[str]:
    """The JSON files of an export. Raises: ValueError when there is none."""
    names = [name for name in archive.names if Path(name).suffix.lower() == ".json"]
    if not names:
        raise ValueError(f"{archive.path} holds no JSON file")
    return names
