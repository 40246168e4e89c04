"""Annotation and result files as checked records; every refusal is a sentence with file and entry.

Both files may be given as a path or as what `json.load` would return. Ids of annotations are only
labels here: 0, repeated and missing ids are all right, because instances are told apart by their
position in the file. (The official evaluator loses the match with an id 0 and confuses instances
that share an id.)
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.json_file import read_json_file
from seqformer.evaluation.track_iou import Size, Track, build_tracks, is_size, mean_areas

logger = logging.getLogger(__name__)

BATCH = 24
"""Instances whose masks are read together: amortises NumPy's overhead, stays in the cache."""


@dataclass(frozen=True, slots=True)
class Record:
    """An instance as its file describes it: the masks are checked when they are read."""

    where: str
    """File and entry, for messages."""
    number: int
    """Annotation id, or position in the list of results."""
    video_id: int
    category_id: int
    segmentations: list[Any]
    """One entry per frame."""


@dataclass(frozen=True, slots=True)
class Instance(Record):
    """A ground-truth instance."""

    is_crowd: bool
    area: float | None
    """Mean of the non-zero entries of `areas`, in pixels; None if the file has no `areas`."""


@dataclass(frozen=True, slots=True)
class Result(Record):
    """A predicted instance."""

    score: float


Kind = TypeVar("Kind", Instance, Result)


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The annotation file: canvases by video id, names by category id, instances in file order."""

    videos: dict[int, Size | None]
    categories: dict[int, str]
    instances: list[Instance]


def read_ground_truth(source: str | Path | Parsed | dict[str, Any]) -> GroundTruth:
    """Read YouTube-VIS annotations. A file without "annotations" has no instances (and warns)."""
    name, content = _load(source, "annotations")
    if not isinstance(content, dict):
        raise ValueError(
            f"{name} holds {_kind(content)}, not the YouTube-VIS annotation object with videos, "
            "categories and annotations; pass the annotation file here and the results separately"
        )
    videos = {}
    for where, video in _entries(content, "videos", name):
        size = video.get("height"), video.get("width")
        videos[_integer(video, "id", where)] = size if is_size(*size) else None
    categories = {}
    for where, category in _entries(content, "categories", name):
        category_id = _integer(category, "id", where)
        categories[category_id] = str(category.get("name", category_id))
    if content.get("annotations") is None:  # missing, or null as in the public validation file
        logger.warning(
            "%s has no annotations (the public validation file has none): all metrics are -1", name
        )
        return GroundTruth(videos, categories, [])

    instances, num_unlisted = [], 0
    for index, (where, entry) in enumerate(_entries(content, "annotations", name)):
        video_id = _integer(entry, "video_id", where)
        category_id = _integer(entry, "category_id", where)
        if video_id not in videos or category_id not in categories:
            num_unlisted += 1
            continue
        annotation_id = _integer(entry, "id", where) if "id" in entry else index
        is_crowd = entry.get("iscrowd", 0)
        if type(is_crowd) not in (int, bool):
            raise ValueError(f"{where}: iscrowd is {is_crowd!r:.40}; needed is 0 or 1")
        area = _mean_area(entry["areas"], where) if "areas" in entry else None
        frames = _frames(entry, where)
        instances.append(
            Instance(where, annotation_id, video_id, category_id, frames, bool(is_crowd), area)
        )
    if num_unlisted:
        logger.warning("%s: %d annotations of unlisted videos or categories", name, num_unlisted)
    if len({instance.number for instance in instances}) < len(instances):
        logger.warning("%s repeats annotation ids; each annotation counts by itself", name)
    return GroundTruth(videos, categories, instances)


def read_results(source: str | Path | Parsed | list[Any], truth: GroundTruth) -> list[Result]:
    """Read a list of results, in file order, without those of categories that are not listed."""
    name, content = _load(source, "results")
    if not isinstance(content, list):
        raise ValueError(
            f"{name} holds {_kind(content)}, not a list; results are a list with one object "
            '{"video_id", "category_id", "score", "segmentations"} per predicted instance'
        )
    results, unlisted = [], set()
    for index, entry in enumerate(content):
        where = f"{name}, entry {index}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where} is {_kind(entry)}; a result is an object")
        video_id = _integer(entry, "video_id", where)
        category_id = _integer(entry, "category_id", where)
        if video_id not in truth.videos:
            raise ValueError(
                f"{where} is for video {video_id}, which the annotation file does not list; "
                "score the results against the annotations of the videos they were made from"
            )
        score = _finite(entry.get("score"), "score", where)
        frames = _frames(entry, where)
        if category_id in truth.categories:
            results.append(Result(where, index, video_id, category_id, frames, score))
        else:
            unlisted.add(category_id)
    if unlisted:
        logger.warning(
            "%s: results of categories that the annotation file does not list are left out: %s",
            name,
            sorted(unlisted),
        )
    return results


def group_by(records: Iterable[Kind], key: str) -> dict[int, list[Kind]]:
    """Records by video or category, in the order given."""
    groups: dict[int, list[Kind]] = {}
    for record in records:
        groups.setdefault(getattr(record, key), []).append(record)
    return groups


def read_tracks(records: Sequence[Record], canvas: Size | None) -> list[Track]:
    """The masks of instances of one video.

    Raises: ValueError naming file, entry and frame of a mask that cannot be read.
    """
    tracks: list[Track] = []
    for start in range(0, len(records), BATCH):
        batch = records[start : start + BATCH]
        try:
            tracks += build_tracks([record.segmentations for record in batch], canvas)
        except InvalidMaskError as error:
            raise ValueError(f"{batch[error.position].where}: the mask of {error}") from None
    return tracks


def read_mean_areas(records: Sequence[Record], canvas: Size | None) -> list[float]:
    """Mean areas of instances of one video that are compared with nothing, as `read_tracks`."""
    try:
        return mean_areas([record.segmentations for record in records], canvas)
    except InvalidMaskError as error:
        raise ValueError(f"{records[error.position].where}: the mask {error}") from None


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file that was read before, for use in place of its path."""

    name: str
    """What to call it in messages."""
    content: Any


def load_json(source: Any, argument: str) -> Parsed:
    """Read a file once that is used several times.

    Args:
        source: a path, or what it holds.
        argument: "annotations" or "results".

    Raises: FileNotFoundError; ValueError when the file is not complete JSON.
    """
    return Parsed(*_load(source, argument))


def _load(source: Any, argument: str) -> tuple[str, Any]:
    """What to call the source in messages, and its content."""
    if isinstance(source, Parsed):
        return source.name, source.content
    if not isinstance(source, str | Path):
        return argument, source
    path = Path(source)
    is_truth = argument == "annotations"
    return str(path), read_json_file(path, f"{argument} file", compress_lists=is_truth)


def _entries(content: dict, key: str, name: str) -> Iterator[tuple[str, dict]]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise ValueError(f'{name} needs a list "{key}", got {_kind(entries)}')
    for index, entry in enumerate(entries):
        where = f"{name}, {key} entry {index}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where} is {_kind(entry)}; needed is an object")
        yield where, entry


def _integer(entry: dict, key: str, where: str) -> int:
    if key not in entry:
        raise ValueError(f'{where} has no "{key}"; needed is an integer')
    if type(entry[key]) is not int:
        raise ValueError(f"{where}: {key} is {entry[key]!r:.40}; needed is an integer")
    return entry[key]


def _finite(value: Any, key: str, where: str) -> float:
    if value is None:
        raise ValueError(f'{where} has no "{key}"; needed is a number')
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{where}: {key} is {value!r:.40}; needed is a finite number")
    return float(value)


def _frames(entry: dict, where: str) -> list[Any]:
    frames = entry.get("segmentations")
    if not isinstance(frames, list):
        raise ValueError(
            f'{where} needs a list "segmentations" with a mask or null for every frame, '
            f"got {_kind(frames)}"
        )
    return frames


def _mean_area(areas: Any, where: str) -> float:
    if not isinstance(areas, list):
        raise ValueError(f"{where}: areas is {_kind(areas)}; needed is a list, one per frame")
    for area in areas:
        if area is not None:
            _finite(area, "an entry of areas", where)
    occupied = [area for area in areas if area]
    return float(np.mean(occupied)) if occupied else 0.0


def _kind(value: Any) -> str:
    """A JSON value in words."""
    if value is None:
        return "nothing"
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a truth value"}
    return kinds.get(type(value), f"{value!r:.40}")
