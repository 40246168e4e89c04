"""Annotation files in YouTube-VIS layout: videos, instances, single frames and single masks.

YouTube-VIS 2019 and 2021, OVIS and custom sets share one JSON layout: `videos` with `file_names`,
`categories`, and `annotations` with one box and one segmentation per frame of their video, null
where the instance is absent. Everything is checked when the file is read; pixels are decoded only
for the frames that are asked for.
"""

from __future__ import annotations

import io
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco_mask

Segmentation = str | np.ndarray | list[list[float]] | None
"""Compressed runs, plain runs [R], polygons, or None where the instance is absent."""

MAX_COORDINATE = 1e6
"""Polygon points further out are a mistake, and cost the rasteriser gigabytes."""
MAX_RUN_CHARACTERS = 6
"""Characters of one compressed run length: 30 bits with the sign."""
_ZERO_TAIL = 64
"""No image ends in so many zero bytes. JPEGs whose end was lost in a copy do, and would decode."""
_DECODER_ERRORS = (
    OSError,  # truncated, among others
    SyntaxError,  # Pillow's word for broken PNG chunks
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instance:
    """One annotated object of a video of L frames.

    Attributes:
        annotation_id: as in the file.
        category_id: as in the file.
        is_crowd: stands for several objects; never trained on.
        boxes_xyxy: [L, 4] float32 in pixels, clipped to the frame; zeros where missing.
        segmentations: L of them.
    """

    annotation_id: int
    category_id: int
    is_crowd: bool
    boxes_xyxy: np.ndarray
    segmentations: tuple[Segmentation, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Video:
    """One video and its instances, in the order of the file."""

    id: int
    file_names: tuple[str, ...]
    height: int
    width: int
    instances: tuple[Instance, ...]

    @property
    def length(self) -> int:
        """L, number of frames."""
        return len(self.file_names)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class YTVISAnnotations:
    """Content of one annotation file.

    Attributes:
        path: where it was read.
        videos: in the order of the file.
        categories: {"id": int, "name": str}, in the order of the file.
    """

    path: Path
    videos: list[Video]
    categories: list[dict[str, Any]]


def load_annotation_file(path: str | Path, require_annotations: bool = False) -> YTVISAnnotations:
    """Read and check an annotation file.

    Args:
        require_annotations: whether a file without any instance is an error. Public validation
            files have no `annotations`; their videos then have no instances.

    Raises: FileNotFoundError; ValueError naming the file, the entry and what is wrong with it.
    """
    path = Path(path)
    content = _read_json(path)
    for key in ("videos", "categories"):
        if not isinstance(content.get(key), list) or not content[key]:
            raise ValueError(f"{path} has no {key}; a YouTube-VIS annotation file lists them")
    categories = []
    for position, category in enumerate(content["categories"]):
        where = f"{path}: category number {position}"
        categories.append(
            {"id": _integer(category, "id", where), "name": str(_get(category, "name", where))}
        )
    category_ids = {category["id"] for category in categories}
    if len(category_ids) < len(categories):
        raise ValueError(f"{path} has two categories with the same id; ids must be unique")

    headers = [
        _video_header(v, f"{path}: video number {i}") for i, v in enumerate(content["videos"])
    ]
    by_id = {header["id"]: header for header in headers}
    if len(by_id) < len(headers):
        raise ValueError(f"{path} has two videos with the same id; ids must be unique")
    instances: dict[int, list[Instance]] = {video_id: [] for video_id in by_id}
    annotations = content.get("annotations") or []
    if not isinstance(annotations, list):
        raise ValueError(f"{path}: annotations must be a list, not {type(annotations).__name__}")
    for position, annotation in enumerate(annotations):
        where = f"{path}: annotation number {position}"
        if isinstance(annotation, dict) and "id" in annotation:
            where = f"{path}: annotation {annotation['id']}"
        video_id = _integer(annotation, "video_id", where)
        if video_id not in by_id:
            raise ValueError(f"{where} belongs to video {video_id}, which the file does not list")
        instance = _instance(annotation, by_id[video_id], position, where)
        if instance.category_id not in category_ids:
            raise ValueError(
                f"{where} has category_id {instance.category_id}, which is not among the file's "
                "categories; add it there or remove the annotation"
            )
        instances[video_id].append(instance)
    if require_annotations and not any(instances.values()):
        raise ValueError(
            f"{path} has no annotations, so there is nothing to train on or to compare with; give "
            "a file with instances (the public validation and test files have none)"
        )
    videos = [Video(**h, instances=tuple(instances[h["id"]])) for h in headers]
    return YTVISAnnotations(path=path, videos=videos, categories=categories)


def read_frame(path: str | Path) -> np.ndarray:
    """Decode one image file to uint8 RGB [H, W, 3]; grey becomes RGB, 16 bits become 8, alpha is
    dropped.

    Raises: FileNotFoundError; ValueError when it is no image, or is cut off.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"frame {path} does not exist; check the image folder and the file names"
        ) from None
    if not any(data[-_ZERO_TAIL:]):
        raise ValueError(f"{path} is empty or ends in zeros, so it is not complete; copy it again")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _to_rgb(image)
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that Pillow can read; copy it again") from None
    except _DECODER_ERRORS as error:
        raise ValueError(f"{path} cannot be decoded ({error}); copy it again") from None


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # Pillow's conversion would clip 16 bits at 255
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("its values exceed 16 bits")
        return (grey >> 8).astype(np.uint8)[..., None].repeat(3, axis=2)
    return np.array(image.convert("RGB"))


def read_video_frame(images: Path, video: Video, frame: int) -> np.ndarray:
    """Decode one frame of a listed video to uint8 RGB [H, W, 3].

    Raises: FileNotFoundError; ValueError, also when its size is not that of the annotation file.
    """
    path = images / video.file_names[frame]
    image = read_frame(path)
    if image.shape[:2] != (video.height, video.width):
        height, width = image.shape[:2]
        raise ValueError(
            f"{path} has {height} x {width} pixels but the annotation file says {video.height} x "
            f"{video.width} for video {video.id}; images and annotations must belong together"
        )
    return image


def decode_mask(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """One segmentation as bool [H, W]; all False where it is None.

    Raises: ValueError saying what is wrong with it.
    """
    if segmentation is None:
        return np.zeros((height, width), bool)
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        segmentation = rle["counts"].decode("ascii")
    runs = _parse_runs(segmentation) if isinstance(segmentation, str) else segmentation
    if runs.size and runs.min() < 0:
        raise ValueError("has a negative run length")
    if runs.sum() != height * width:
        raise ValueError(f"has runs of {runs.sum()} pixels in all instead of {height} x {width}")
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(width, height).T


def _parse_runs(counts: str) -> np.ndarray:
    """Compressed run lengths of COCO as int64 [R].

    Each number is written in groups of five bits, lowest first, `chr(48 + bits)`, plus 32 where
    more follow; from the fourth on it is the difference to the number two places earlier.
    """
    code = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not counts.isascii() or code.min() < 0 or code.max() > 63:
        raise ValueError("has a foreign character in its counts")
    is_last = code < 32
    if not is_last[-1]:
        raise ValueError("has counts that stop in the middle of a number")
    stop = np.flatnonzero(is_last)
    start = np.append(0, stop[:-1] + 1)
    length = stop - start + 1
    if length.max() > MAX_RUN_CHARACTERS:
        raise ValueError("has a run length of absurd size")
    place = np.arange(code.size) - np.repeat(start, length)
    values = np.add.reduceat((code & 31) << (5 * place), start)
    values -= np.where(code[stop] & 16, 1 << (5 * length), 0)  # two's complement
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"annotation file {path} does not exist; check the path")
    try:
        content = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); was it copied completely?") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a JSON {type(content).__name__}, not an object with videos, categories "
            "and annotations; is it a results file?"
        )
    return content


def _get(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is not a JSON object")
    if entry.get(key) is None:
        raise ValueError(f"{where} has no {key!r}; a YouTube-VIS annotation file needs it")
    return entry[key]


def _integer(entry: Any, key: str, where: str) -> int:
    value = _get(entry, key, where)
    if type(value) is not int:
        raise ValueError(f"{where} has {key} {value!r}, which is not an integer")
    return value


def _video_header(video: Any, where: str) -> dict[str, Any]:
    video_id = _integer(video, "id", where)
    where = f"{where} (id {video_id})"
    height, width = _integer(video, "height", where), _integer(video, "width", where)
    if height < 1 or width < 1:
        raise ValueError(f"{where} has {height} x {width} pixels; both must be positive")
    names = _get(video, "file_names", where)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where} has file_names that are not a list of names")
    if not names:
        raise ValueError(f"{where} has no frames; remove it from the file or list its frames")
    return {"id": video_id, "file_names": tuple(names), "height": height, "width": width}


def _instance(annotation: dict, video: dict[str, Any], position: int, where: str) -> Instance:
    height, width, num_frames = video["height"], video["width"], len(video["file_names"])
    category_id = _integer(annotation, "category_id", where)
    lists = {}
    for key in ("segmentations", "bboxes"):
        lists[key] = _get(annotation, key, where)
        if not isinstance(lists[key], list) or len(lists[key]) != num_frames:
            count = len(lists[key]) if isinstance(lists[key], list) else "no list of"
            raise ValueError(
                f"{where} has {count} {key} but its video {video['id']} has {num_frames} frames; "
                "there must be one per frame, null where the instance is absent"
            )
    boxes = np.array([_box(box, where) for box in lists["bboxes"]], np.float32)
    boxes[:, 2:] += boxes[:, :2]
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    segmentations = tuple(
        _segmentation(s, height, width, f"{where}, frame {t}: the segmentation")
        for t, s in enumerate(lists["segmentations"])
    )
    return Instance(
        annotation_id=annotation.get("id", position),
        category_id=category_id,
        is_crowd=bool(annotation.get("iscrowd", 0)),
        boxes_xyxy=boxes,
        segmentations=segmentations,
    )


def _box(box: Any, where: str) -> list[float]:
    if not box:
        return [0.0, 0.0, 0.0, 0.0]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{where} has a box {box!r}, which is not [x, y, width, height] or null")
    return box


def _segmentation(segmentation: Any, height: int, width: int, where: str) -> Segmentation:
    """The compact form, its structure checked."""
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise ValueError(
                    f"{where} is a list but not of polygons [x0, y0, x1, y1, x2, y2, ...] with "
                    "three points or more"
                )
            if not all(_is_number(c) and abs(c) <= MAX_COORDINATE for c in polygon):
                raise ValueError(f"{where} has a polygon whose coordinates are no pixel positions")
        return segmentation
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        raise ValueError(f"{where} is neither polygons nor an RLE with size and counts nor null")
    if segmentation["size"] != [height, width]:
        raise ValueError(
            f"{where} has size {segmentation['size']} but its video has [{height}, {width}] "
            "(height, width)"
        )
    counts = segmentation["counts"]
    if isinstance(counts, str) and counts:
        return counts
    if isinstance(counts, list) and all(type(run) is int for run in counts):
        return np.array(counts, np.int64 if sum(counts) > 2**31 - 1 else np.int32)
    raise ValueError(f"{where} has counts that are neither a text nor a list of integers")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
