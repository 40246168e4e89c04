"""Annotation and result files as checked records; every refusal is a sentence with file and entry.

Both files may be given as a path or as what `json.load` would return. Ids of annotations are only
labels here: 0, repeated and missing ids are all right, because instances are told apart by their
position in the file. (The official evaluator loses the match with an id 0 and confuses instances
that share an id.)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.json_file import read_json_file
from seqformer.annotations.mask_text import MaskText, mask_list
from seqformer.annotations.masks import Size
from seqformer.annotations.reader import AnnotationEntry, read_file
from seqformer.annotations.rules import get_id, get_number, get_segmentations, kind
from seqformer.evaluation.mask_files import ResultColumns, scan_annotations, scan_results
from seqformer.evaluation.track_iou import Track, build_tracks, mean_areas

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
    segmentations: list[Any] | MaskText
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
    lengths: dict[int, int]
    """Frames by video id, where the file lists them."""


def read_ground_truth(source: str | Path | Parsed | dict[str, Any]) -> GroundTruth:
    """Read YouTube-VIS annotations. A file without "annotations" has no instances (and warns).

    Raises: ValueError as `annotations.reader`.
    """
    name, content = _load(source, "annotations")
    file = read_file(name, content)
    videos = {video.id: video.size for video in file.videos.values()}
    if file.entries is None:  # missing, or null as in the public validation file
        logger.warning(
            "%s has no annotations (the public validation file has none): all metrics are -1", name
        )
    instances = []
    for entry in file.instances():
        video = file.videos[entry.video_id]
        _check_sizes(entry, video.size)
        instances.append(
            Instance(
                entry.where,
                entry.number,
                entry.video_id,
                entry.category_id,
                entry.segmentations,
                entry.is_crowd,
                entry.area,
            )
        )
    for sentence in file.notes.sentences():
        logger.warning("%s", sentence)
    lengths = {v.id: len(v.file_names) for v in file.videos.values() if v.file_names is not None}
    return GroundTruth(videos, file.categories, instances, lengths)


def _check_sizes(entry: AnnotationEntry, size: Size | None) -> None:
    """Raises: ValueError when a mask has another size than its video."""
    if size is None:
        return
    masks = entry.segmentations
    if isinstance(masks, MaskText) and masks.is_all_of(size):
        return
    expected = [*size]
    both = expected, size
    for frame, mask in enumerate(mask_list(masks)):
        if type(mask) is dict and mask and mask.get("size") not in both:
            raise ValueError(
                f"{entry.where}: the mask of frame {frame} has size {mask.get('size')!r:.40} but "
                f"its video has {expected} (height, width)"
            )


@dataclass(frozen=True, slots=True)
class Predictions:
    """The results that count, D of them, in the order of their file."""

    name: str
    """Of the file, for messages."""
    numbers: np.ndarray
    """[D] int64: positions in the file."""
    video_ids: np.ndarray
    """[D] uint64."""
    category_ids: np.ndarray
    """[D] uint64."""
    scores: np.ndarray
    """[D] float64."""
    source: ResultColumns | list[Any]
    """All results of the file: columns, or objects."""

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, i: int) -> str:
        """File and entry, for messages."""
        return f"{self.name}, entry {self.numbers[i]}"

    def masks(self, i: int) -> list[Any] | MaskText:
        """One entry per frame."""
        number = int(self.numbers[i])
        if isinstance(self.source, ResultColumns):
            return self.source.masks(number)
        return self.source[number]["segmentations"]

    def lengths(self) -> np.ndarray:
        """[D] frames."""
        if isinstance(self.source, ResultColumns):
            return self.source.spans["frames"][self.numbers].astype(np.int64)
        return np.array([len(self.masks(i)) for i in range(len(self))], np.int64)

    def records(self) -> list[Result]:
        """One object each."""
        ids = zip(self.video_ids.tolist(), self.category_ids.tolist(), strict=True)
        rows = zip(self.numbers.tolist(), ids, self.scores.tolist(), strict=True)
        return [
            Result(self.where(i), number, video_id, category_id, self.masks(i), score)
            for i, (number, (video_id, category_id), score) in enumerate(rows)
        ]


def read_results(source: str | Path | Parsed | list[Any], truth: GroundTruth) -> list[Result]:
    """Read a list of results, in file order, without those of categories that are not listed."""
    return read_predictions(source, truth).records()


def read_predictions(source: str | Path | Parsed | list[Any], truth: GroundTruth) -> Predictions:
    """The same as columns.

    Raises: ValueError naming file and entry of what is no result.
    """
    name, content = _load(source, "results")
    if isinstance(content, ResultColumns):
        video_ids, category_ids = content.video_ids, content.category_ids
        is_known = _is_listed(video_ids, truth.videos)
        if not is_known.all():
            index = int(np.argmin(is_known))
            raise _unlisted_video(f"{name}, entry {index}", int(video_ids[index]))
        scores = content.scores
    else:
        columns = _read_entries(name, content, truth)
        video_ids, category_ids = (np.array(column, np.uint64) for column in columns[:2])
        scores = np.array(columns[2], np.float64)
    is_listed = _is_listed(category_ids, truth.categories)
    if not is_listed.all():
        logger.warning(
            "%s: %d results of categories that the annotation file does not list are left out, as "
            "they would be for another edition of the data set: %s",
            name,
            np.count_nonzero(~is_listed),
            sorted(set(category_ids[~is_listed].tolist())),
        )
    numbers = np.flatnonzero(is_listed)
    return Predictions(
        name,
        numbers,
        video_ids[numbers].astype(np.uint64),
        category_ids[numbers].astype(np.uint64),
        scores[numbers],
        content,
    )


def _is_listed(ids: np.ndarray, listed: Iterable[int]) -> np.ndarray:
    """Which ids of a column are among the listed ones, [D] bool."""
    most = int(np.iinfo(ids.dtype).max)
    known = np.array(sorted(i for i in listed if i <= most), ids.dtype)
    if not known.size:
        return np.zeros(len(ids), bool)
    return known[np.searchsorted(known, ids).clip(max=len(known) - 1)] == ids


def _read_entries(
    name: str, content: Any, truth: GroundTruth
) -> tuple[list[int], list[int], list[float]]:
    """Video ids, category ids and scores. Raises: ValueError."""
    if not isinstance(content, list):
        raise ValueError(
            f"{name} holds {kind(content)}, not a list; results are a list with one object "
            '{"video_id", "category_id", "score", "segmentations"} per predicted instance'
        )
    video_ids, category_ids, scores = [], [], []
    for index, entry in enumerate(content):
        where = f"{name}, entry {index}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where} is {kind(entry)}; a result is an object")
        video_ids.append(get_id(entry, "video_id", where))
        category_ids.append(get_id(entry, "category_id", where))
        if video_ids[-1] not in truth.videos:
            raise _unlisted_video(where, video_ids[-1])
        scores.append(get_number(entry.get("score"), "score", where))
        get_segmentations(entry, where)
    return video_ids, category_ids, scores


def _unlisted_video(where: str, video_id: int) -> ValueError:
    return ValueError(
        f"{where} is for video {video_id}, which the annotation file does not list; "
        "score the results against the annotations of the videos they were made from"
    )


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
            tracks += build_tracks([mask_list(record.segmentations) for record in batch], canvas)
        except InvalidMaskError as error:
            raise ValueError(f"{batch[error.position].where}: the mask of {error}") from None
    return tracks


def read_mean_areas(records: Sequence[Record], canvas: Size | None) -> list[float]:
    """Mean areas of instances of one video that are compared with nothing, as `read_tracks`."""
    try:
        return mean_areas([mask_list(record.segmentations) for record in records], canvas)
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
    scanned = scan_annotations(path) if is_truth else scan_results(path)
    if scanned is None:
        scanned = read_json_file(path, f"{argument} file", compress_lists=is_truth)
    return str(path), scanned
