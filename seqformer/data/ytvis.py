"""Annotation files in YouTube-VIS layout, checked, as flat arrays.

YouTube-VIS 2019 and 2021, OVIS and custom sets share one JSON layout: `videos` with `file_names`,
`categories`, and `annotations` with one box and one segmentation per frame of their video, null
where the instance is absent. Everything is checked when the file is read; pixels are decoded only
for the frames that are asked for. The result can be kept in a cache folder (`cache.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqformer.annotations.json_file import read_json_file
from seqformer.data.arena import Arena, ArenaBuilder, Videos
from seqformer.data.cache import cached_arena
from seqformer.data.segmentation import Segmentation, pack_segmentation

MAX_COORDINATE = 1e6
"""Polygon points further out are a mistake, and cost the rasteriser gigabytes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnnotationSet:
    """Content of one annotation file; that of still images has one-frame videos.

    Attributes:
        path: where it was read.
        arena: the flat arrays.
        categories: {"id": int, "name": str}, in the order of the file.
    """

    path: Path
    arena: Arena
    categories: list[dict[str, Any]]

    @property
    def videos(self) -> Videos:
        """In the order of the file."""
        return Videos(self.arena)

    @property
    def num_instances(self) -> int:
        """Of all videos, crowds included."""
        return len(self.arena.arrays.annotation_ids)


def load_annotation_file(
    path: str | Path, require_annotations: bool = False, cache: Path | None = None
) -> AnnotationSet:
    """Read and check an annotation file.

    Args:
        require_annotations: whether a file without any instance is an error. Public validation
            files have no `annotations`; their videos then have no instances.
        cache: folder for the flat form, which is then read next time and shared by all processes
            of the machine; without one, every process parses the JSON for itself.

    Raises: FileNotFoundError; ValueError naming the file, the entry and what is wrong with it.
    """
    path = Path(path)
    arena = cached_arena(path, "ytvis", cache, lambda: _parse(path))
    loaded = AnnotationSet(path=path, arena=arena, categories=list(arena.extra["categories"]))
    if require_annotations and not loaded.num_instances:
        raise ValueError(
            f"{path} has no annotations, so there is nothing to train on or to compare with; give "
            "a file with instances (the public validation and test files have none)"
        )
    return loaded


def _parse(path: Path) -> Arena:
    content = read_json(path)
    for key in ("videos", "categories"):
        if not isinstance(content.get(key), list) or not content[key]:
            raise ValueError(f"{path} has no {key}; a YouTube-VIS annotation file lists them")
    categories = read_categories(content, path)
    category_ids = {category["id"] for category in categories}
    builder = ArenaBuilder()
    headers = []
    for number, video in enumerate(content["videos"]):
        header = _video_header(video, f"{path}: video number {number}")
        headers.append(header)
        builder.add_video(header["id"], header["height"], header["width"], header["file_names"])
    position_of = {header["id"]: position for position, header in enumerate(headers)}
    if len(position_of) < len(headers):
        raise ValueError(f"{path} has two videos with the same id; ids must be unique")
    annotations = content.get("annotations") or []
    if not isinstance(annotations, list):
        raise ValueError(f"{path}: annotations must be a list, not {type(annotations).__name__}")
    for number, annotation in enumerate(annotations):
        where = f"{path}: annotation number {number}"
        if isinstance(annotation, dict) and "id" in annotation:
            where = f"{path}: annotation {annotation['id']}"
        video_id = get_integer(annotation, "video_id", where)
        if video_id not in position_of:
            raise ValueError(f"{where} belongs to video {video_id}, which the file does not list")
        position = position_of[video_id]
        _add_instance(builder, annotation, headers[position], position, number, where)
        if builder.instances[-1][2] not in category_ids:
            raise ValueError(
                f"{where} has category_id {annotation['category_id']}, which is not among the "
                "file's categories; add it there or remove the annotation"
            )
        annotations[number] = None  # what is packed need not wait for the rest
    return builder.build({"categories": categories})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises: FileNotFoundError, ValueError."""
    content = read_json_file(path, "annotation file")
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a JSON {type(content).__name__}, not an object with videos, categories "
            "and annotations; is it a results file?"
        )
    return content


def read_categories(content: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Ids and names of `content["categories"]`. Raises: ValueError."""
    categories = []
    for number, category in enumerate(content["categories"]):
        where = f"{path}: category number {number}"
        category_id = get_integer(category, "id", where)
        categories.append({"id": category_id, "name": str(get_value(category, "name", where))})
    if len({category["id"] for category in categories}) < len(categories):
        raise ValueError(f"{path} has two categories with the same id; ids must be unique")
    return categories


def get_value(entry: Any, key: str, where: str) -> Any:
    """`entry[key]`, which must be there. Raises: ValueError."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is not a JSON object")
    if entry.get(key) is None:
        raise ValueError(f"{where} has no {key!r}; a YouTube-VIS annotation file needs it")
    return entry[key]


def get_integer(entry: Any, key: str, where: str) -> int:
    """`entry[key]`, an integer. Raises: ValueError."""
    value = get_value(entry, key, where)
    if type(value) is not int:
        raise ValueError(f"{where} has {key} {value!r}, which is not an integer")
    return value


def _video_header(video: Any, where: str) -> dict[str, Any]:
    video_id = get_integer(video, "id", where)
    where = f"{where} (id {video_id})"
    height, width = get_integer(video, "height", where), get_integer(video, "width", where)
    if height < 1 or width < 1:
        raise ValueError(f"{where} has {height} x {width} pixels; both must be positive")
    names = get_value(video, "file_names", where)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where} has file_names that are not a list of names")
    if not names:
        raise ValueError(f"{where} has no frames; remove it from the file or list its frames")
    return {"id": video_id, "file_names": tuple(names), "height": height, "width": width}


def _add_instance(
    builder: ArenaBuilder, annotation: dict, video: dict, position: int, number: int, where: str
) -> None:
    height, width, num_frames = video["height"], video["width"], len(video["file_names"])
    category_id = get_integer(annotation, "category_id", where)
    lists = {}
    for key in ("segmentations", "bboxes"):
        lists[key] = get_value(annotation, key, where)
        if not isinstance(lists[key], list) or len(lists[key]) != num_frames:
            count = len(lists[key]) if isinstance(lists[key], list) else "no list of"
            raise ValueError(
                f"{where} has {count} {key} but its video {video['id']} has {num_frames} frames; "
                "there must be one per frame, null where the instance is absent"
            )
    packed = []
    for t, entry in enumerate(lists["segmentations"]):
        mask = read_segmentation(entry, height, width, f"{where}, frame {t}: the segmentation")
        packed.append(pack_segmentation(mask, height, width))
    builder.add_instance(
        position,
        annotation_id=annotation_id(annotation, number),
        category_id=category_id,
        is_crowd=bool(annotation.get("iscrowd", 0)),
        boxes_xyxy=clipped_boxes([read_box(b, where) for b in lists["bboxes"]], height, width),
        packed=packed,
    )


def annotation_id(annotation: dict[str, Any], number: int) -> int:
    """The id of an annotation for messages; its number in the file where it has none."""
    value = annotation.get("id")
    return value if type(value) is int and abs(value) < 2**63 else number


def clipped_boxes(boxes_xywh: list[list[float]], height: int, width: int) -> np.ndarray:
    """[L, 4] float32 corners inside the frame."""
    boxes = np.array(boxes_xywh, np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))


def read_box(box: Any, where: str) -> list[float]:
    """[x, y, width, height]; zeros for null. Raises: ValueError."""
    if not box:
        return [0.0, 0.0, 0.0, 0.0]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{where} has a box {box!r}, which is not [x, y, width, height] or null")
    return box


def read_segmentation(segmentation: Any, height: int, width: int, where: str) -> Segmentation:
    """One segmentation of the JSON, its structure checked. Raises: ValueError."""
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
    runs = _plain_runs(counts)
    if runs is None:
        raise ValueError(f"{where} has counts that are neither a text nor a list of integers")
    if runs.size and max(runs.max(), -runs.min()) > height * width:
        raise ValueError(f"{where} has a run longer than the frame has pixels")
    return runs


def _plain_runs(counts: Any) -> np.ndarray | None:
    """[R] int64; None for what is no list of integers."""
    if not isinstance(counts, list):
        return None
    try:
        runs = np.array(counts)
    except ValueError:  # lists of different lengths
        return None
    is_good = runs.ndim == 1 and (runs.dtype.kind == "i" or not runs.size)
    return runs.astype(np.int64) if is_good else None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
