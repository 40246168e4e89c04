"""labelme, both ways: a folder per video with a JSON file per frame; `group_id` is the object.

Shapes are drawn as labelme draws them, outline included. Masks go back as labelme's mask shapes, a
PNG of their box, so nothing of them is lost.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import orjson
from PIL import Image, ImageDraw

from seqformer.annotations.masks import Size, is_size
from seqformer.files import make_folder, natural_key, write_bytes
from seqformer.safe_files import check_pixels
from seqformer.tools.exchange.archive import Archive
from seqformer.tools.exchange.corrections import GivenVideo
from seqformer.tools.exchange.drawn_videos import DrawnFrame, DrawnVideo
from seqformer.tools.exchange.frame_files import picture_size, safe_names
from seqformer.tools.track_builder import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

BOXES = ("rectangle", "oriented_rectangle")
WITHOUT_AREA = ("point", "points", "line", "linestrip")
_VERSION = "5.5.0"
"""Of labelme, whose files these are like."""


def read_labelme(
    archive: Archive, take_boxes: bool, scratch: Path, images: Path | None = None
) -> tuple[list[DrawnVideo], list[str]]:
    """The videos of an export: every folder with JSON files is one. Frames may lack a JSON file.

    A frame's picture is beside its JSON file, or inside it, or in `images`.

    Raises: ValueError naming the file and what is wrong with it.
    """
    folders: dict[str, list[str]] = {}
    for name in archive.names:
        if name.lower().endswith(".json") and not PurePosixPath(name).name.startswith("."):
            folders.setdefault(str(PurePosixPath(name).parent), []).append(name)
    if not folders:
        raise ValueError(f"{archive.path} holds no JSON file of labelme")
    counts: Counter[str] = Counter()
    videos = [
        _read_video(archive, folder, names, take_boxes, counts, scratch, images)
        for folder, names in sorted(folders.items(), key=lambda item: natural_key(item[0]))
    ]
    for kind, text in {
        "box": "rectangles have no mask and are left out (--boxes takes all their pixels)",
        "line": "points and lines have no area and are left out",
        "unlinked": "shapes have no group_id, so each is an object of one frame",
    }.items():
        if counts[kind]:
            logger.warning("%s: %d %s", archive.path, counts[kind], text)
    return videos, []


def _read_video(
    archive: Archive,
    folder: str,
    names: Sequence[str],
    take_boxes: bool,
    counts: Counter[str],
    scratch: Path,
    images: Path | None,
) -> DrawnVideo:
    contents = {}
    for name in names:
        contents[PurePosixPath(name).stem] = (name, _load(archive, name))
    pictures = {}
    for image in archive.images():
        if str(PurePosixPath(image).parent) == folder:
            pictures[PurePosixPath(image).stem] = image
    for stem, (name, content) in contents.items():
        if stem not in pictures:
            found = _find_picture(archive, name, content, images)
            if found is not None:
                pictures[stem] = found
    stems = sorted({*contents, *pictures}, key=natural_key)
    first = next(iter(contents.values()))
    size = _size(archive, first, next(iter(pictures.values()), None), scratch)
    frames = [
        DrawnFrame(t, PurePosixPath(pictures.get(stem) or f"{stem}.jpg").name, pictures.get(stem))
        for t, stem in enumerate(stems)
    ]
    title = archive.path.stem if folder == "." else folder
    video = DrawnVideo(title, size, frames, folder="" if folder == "." else folder)
    for t, stem in enumerate(stems):
        if stem not in contents:
            continue
        name, content = contents[stem]
        where = f"{archive.path}, {name}"
        own = content.get("imageHeight"), content.get("imageWidth")
        if None not in own and own != size:
            raise ValueError(
                f"{where} is of a picture of {own[0]} x {own[1]} pixels, its video has "
                f"{size[0]} x {size[1]}; all frames of a video must have one size"
            )
        for number, shape in enumerate(content["shapes"]):
            _add(video, t, number, shape, f"{where}, shape {number}", take_boxes, counts)
    return video


def _find_picture(
    archive: Archive, name: str, content: dict[str, Any], images: Path | None
) -> str | None:
    """The picture of a JSON file that has none of its name beside it."""
    given = str(content.get("imagePath") or "").replace("\\", "/")
    if images is not None and given:
        path = (archive.path / PurePosixPath(name).parent / given).resolve()
        if path.is_relative_to(images.resolve()) and path.is_file():
            return str(path)
    found = archive.find_image(PurePosixPath(given).name) if given else None
    data = content.get("imageData")
    if found is not None or not isinstance(data, str):
        return found
    where = f"{archive.path}, {name}"
    kind = ".jpg" if _decoded(data[:8], where).startswith(b"\xff\xd8") else ".png"
    inside = f"{name}{kind}"
    archive.embedded[inside] = lambda: _decoded(_load(archive, name)["imageData"], where)
    return inside


def _decoded(text: Any, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: its imageData is no picture") from None


def _load(archive: Archive, name: str) -> dict[str, Any]:
    where = f"{archive.path}, {name}"
    try:
        content = orjson.loads(archive.read(name))
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{where} is not complete JSON ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise ValueError(f"{where} has no list of shapes; a file of labelme has one")
    return content


def _size(
    archive: Archive, first: tuple[str, dict[str, Any]], picture: str | None, scratch: Path
) -> Size:
    name, content = first
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if is_size(height, width):
        assert isinstance(height, int) and isinstance(width, int)
        check_pixels(height, width, f"{archive.path}, {name}")
        return height, width
    if picture is None:
        raise ValueError(f"{archive.path}, {name} has neither imageHeight and imageWidth nor image")
    return picture_size(archive, picture, scratch)


def _add(
    video: DrawnVideo,
    t: int,
    number: int,
    shape: Any,
    where: str,
    take_boxes: bool,
    counts: Counter[str],
) -> None:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise ValueError(f"{where} has no label")
    kind = shape.get("shape_type") or "polygon"
    if not isinstance(kind, str):
        raise ValueError(f"{where} has shape_type {kind!r:.40}; needed is its name")
    if kind in WITHOUT_AREA:
        counts["line"] += 1
        return
    if kind in BOXES and not take_boxes:
        counts["box"] += 1
        return
    group = shape.get("group_id")
    if group is not None and type(group) is not int:
        raise ValueError(f"{where}: group_id is {group!r:.40}; needed is a whole number or null")
    counts["unlinked"] += group is None
    key: Hashable = ("shape", t, number) if group is None else ("group", shape["label"], group)
    instance = video.instance(key, shape["label"])
    instance.add(t, _draw(kind, shape, video.size, where))
    flags = shape.get("flags")
    flags = flags if isinstance(flags, dict) else {}
    instance.is_crowd |= flags.get("iscrowd") is True
    if flags.get("occluded") is True:
        instance.occluded.add(t)


def _draw(kind: str, shape: dict[str, Any], size: Size, where: str) -> np.ndarray:
    points = _points(shape.get("points"), where)
    if kind == "mask":
        return _paste(shape.get("mask"), points, size, where)
    ground = Image.new("1", (size[1], size[0]))
    pen = ImageDraw.Draw(ground)
    least = {"polygon": 3, "circle": 2, "rectangle": 2, "oriented_rectangle": 4}.get(kind)
    if least is None:
        raise ValueError(f"{where} is a {kind!r:.40}, which is no shape of labelme")
    if len(points) < least:
        raise ValueError(f"{where}: a {kind} of {len(points)} points")
    if kind == "circle":
        (x, y), edge = points[:2]
        radius = math.dist((x, y), edge)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
    elif kind == "rectangle":
        xs, ys = zip(*points[:2], strict=True)
        pen.rectangle((min(xs), min(ys), max(xs), max(ys)), fill=1, outline=1)
    else:
        pen.polygon(points, fill=1, outline=1)
    return np.array(ground, bool)


def _points(points: Any, where: str) -> list[tuple[float, float]]:
    try:
        pairs = [(float(x), float(y)) for x, y in points]
    except (TypeError, ValueError):
        raise ValueError(f"{where} has points {points!r:.40}; needed are [[x, y], ...]") from None
    if not pairs or not all(abs(n) <= 1e6 for pair in pairs for n in pair):
        raise ValueError(f"{where} has points that are no pixel positions")
    return pairs


def _paste(encoded: Any, points: list[tuple[float, float]], size: Size, where: str) -> np.ndarray:
    """A mask shape: a PNG of its box, whose first point is the upper left corner."""
    if not isinstance(encoded, str):
        raise ValueError(f"{where} is a mask without its picture")
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))) as image:
            check_pixels(image.height, image.width, where)
            patch = np.array(image).astype(bool)
    except (OSError, binascii.Error, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: its mask is no PNG ({error})") from None
    if patch.ndim != 2:
        raise ValueError(f"{where}: its mask has colours")
    left, top = round(points[0][0]), round(points[0][1])
    mask = np.zeros(size, bool)
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(size[0], top + patch.shape[0]), min(size[1], left + patch.shape[1])
    if y0 < y1 and x0 < x1:
        mask[y0:y1, x0:x1] = patch[y0 - top : y1 - top, x0 - left : x1 - left]
    return mask


def write_labelme(videos: Sequence[GivenVideo], output: Path, images: Path | None) -> list[Path]:
    """Write a folder per video into a folder, a JSON file per frame.

    Args:
        images: folder that the file names start from; the files refer to the frames there. Without
            it they refer to frames beside them.

    Returns: the folders.
    Raises: WriteError.
    """
    folders = []
    for video, name in zip(videos, safe_names([v.name for v in videos]), strict=True):
        folder = output / name
        make_folder(folder, "output folder")
        folders.append(folder)
        for t, file_name in enumerate(video.file_names):
            path = PurePosixPath(video.names[t] if images is None else file_name)
            stem = path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name
            shown = path.name
            if images is not None:
                shown = Path(os.path.relpath(images / file_name, folder)).as_posix()
            content: dict[str, Any] = {
                "version": _VERSION,
                "flags": {},
                "shapes": _shapes(video, t),
                "imagePath": shown,
                "imageData": None,
                "imageHeight": video.size[0],
                "imageWidth": video.size[1],
            }
            text = json.dumps(content, ensure_ascii=False, indent=2)
            write_bytes(folder / f"{stem}.json", text.encode())
    return folders


def _shapes(video: GivenVideo, t: int) -> list[dict[str, Any]]:
    shapes = []
    for group, instance in enumerate(video.instances, start=1):
        mask = instance.mask(t)
        if mask is None:
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, bottom, left, right = map(int, (rows[0], rows[-1], columns[0], columns[-1]))
        file = io.BytesIO()
        Image.fromarray(mask[top : bottom + 1, left : right + 1].astype(np.uint8)).save(file, "PNG")
        flags = {"iscrowd": instance.is_crowd, "occluded": instance.occluded[t]}
        shapes.append(
            {
                "label": instance.label,
                "points": [[left, top], [right, bottom]],
                "group_id": group,
                "description": "" if instance.score is None else f"score {instance.score:.3f}",
                "shape_type": "mask",
                "flags": {name: True for name, value in flags.items() if value},
                "mask": base64.b64encode(file.getvalue()).decode("ascii"),
            }
        )
    return shapes
