"""The one reader of annotation files in YouTube-VIS layout: for training, scoring and the tools.

What it refuses, all refuse, with the same sentence; what it leaves out or sees differently than the
file says it, it says once per kind. Masks are checked by whoever reads them (`masks.parse_mask`,
then `run_lengths.read_runs`); everything else is checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from seqformer.annotations.masks import Size, is_size
from seqformer.annotations.rules import (
    get_file_names,
    get_id,
    get_list,
    get_name,
    get_object,
    get_segmentations,
    is_crowd,
    kind,
    mean_area,
)


@dataclass
class Notes:
    """What is to be said of a file: kinds of oddities, how often they occur, and the first."""

    name: str
    """Of the file."""
    first: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, what: str, where: str, count: int = 1) -> None:
        """Count one more."""
        self.first.setdefault(what, where)
        self.counts[what] = self.counts.get(what, 0) + count

    def sentences(self) -> list[str]:
        """One per kind."""
        return [
            f"{self.name}: {count} {what} (first: {self.first[what]})"
            for what, count in self.counts.items()
        ]


@dataclass(frozen=True, slots=True)
class VideoEntry:
    """A video."""

    where: str
    id: int
    size: Size | None
    """(height, width); None if the file does not tell."""
    file_names: tuple[str, ...] | None
    """None if the file does not list them."""


@dataclass(frozen=True, slots=True)
class AnnotationEntry:
    """An instance through its video."""

    where: str
    """File and entry, for messages."""
    number: int
    """Its id, or its position in the file where it has none."""
    video_id: int
    category_id: int
    is_crowd: bool
    segmentations: list[Any]
    """One entry per frame, not checked."""
    boxes: Any
    """As the file has them, not checked."""
    area: float | None
    """Mean of the entries of `areas` that are not 0, in pixels; None where the masks must tell."""


@dataclass(frozen=True)
class AnnotationFile:
    """A whole file but for its instances, which `instances` reads one by one."""

    name: str
    videos: dict[int, VideoEntry]
    """In the order of the file."""
    categories: dict[int, str]
    """Names by id, in the order of the file."""
    entries: list[Any] | None
    """The annotations; None where the file has none, as the public validation file."""
    notes: Notes

    def instances(self, forget: Callable[[int], None] | None = None) -> Iterator[AnnotationEntry]:
        """The annotations, in the order of the file.

        Those of videos and categories that the file does not list are left out, with a note.

        Args:
            forget: called with the position of an entry when it has been read.

        Raises: ValueError naming the entry and what is wrong with it.
        """
        seen: set[int] = set()
        for index, value in enumerate(self.entries or ()):
            where = f"{self.name}, annotations entry {index}"
            entry = get_object(value, where)
            video_id, category_id = (
                get_id(entry, "video_id", where),
                get_id(entry, "category_id", where),
            )
            number = get_id(entry, "id", where) if "id" in entry else index
            if number in seen:
                self.notes.add(
                    "annotation ids that occur twice; each annotation counts by itself", where
                )
            seen.add(number)
            crowd = is_crowd(entry.get("iscrowd", 0), where)
            segmentations = get_segmentations(entry, where)
            video = self.videos.get(video_id)
            if video is None or category_id not in self.categories:
                self.notes.add("annotations of unlisted videos or categories are left out", where)
                continue
            if video.file_names is not None and len(segmentations) != len(video.file_names):
                raise ValueError(
                    f"{where} has {len(segmentations)} segmentations but its video {video_id} has "
                    f"{len(video.file_names)} frames; there must be one per frame, null where the "
                    "instance is absent"
                )
            area = None
            if entry.get("areas") is not None:
                area = mean_area(entry["areas"])
                if area is None:
                    self.notes.add(
                        "areas that are no list of numbers; those of the masks are taken", where
                    )
            yield AnnotationEntry(
                where,
                number,
                video_id,
                category_id,
                crowd,
                segmentations,
                entry.get("bboxes"),
                area,
            )
            if forget is not None:
                forget(index)


def read_file(name: str, content: Any) -> AnnotationFile:
    """Check the videos and categories of an annotation file.

    Args:
        name: what to call it in messages.
        content: its JSON.

    Raises: ValueError naming the file, the entry and what is wrong with it.
    """
    if not isinstance(content, dict):
        raise ValueError(
            f"{name} holds {kind(content)}, not the YouTube-VIS annotation object with videos, "
            "categories and annotations; is it a results file?"
        )
    videos: dict[int, VideoEntry] = {}
    for index, value in enumerate(get_list(content, "videos", name)):
        where = f"{name}, videos entry {index}"
        entry = get_object(value, where)
        video_id = get_id(entry, "id", where)
        if video_id in videos:
            raise ValueError(f"{where} has the id {video_id} of an earlier one; ids must be unique")
        where = f"{where} (id {video_id})"
        size: tuple[Any, Any] | None = None
        if entry.get("height") is not None or entry.get("width") is not None:
            size = entry.get("height"), entry.get("width")
            if not is_size(*size):
                raise ValueError(
                    f"{where} has {size[0]!r:.20} x {size[1]!r:.20} pixels (height x width); both "
                    "must be positive integers"
                )
        videos[video_id] = VideoEntry(where, video_id, size, get_file_names(entry, where))
    categories = read_categories(name, content)
    entries = content.get("annotations")
    if entries is not None:
        get_list(content, "annotations", name)
    return AnnotationFile(name, videos, categories, entries, Notes(name))


def read_categories(name: str, content: dict[str, Any]) -> dict[int, str]:
    """The names of a file's categories by id, in the order of the file.

    Args:
        name: what to call the file in messages.
        content: its JSON, in YouTube-VIS or COCO layout.

    Raises: ValueError naming the entry and what is wrong with it.
    """
    categories: dict[int, str] = {}
    for index, value in enumerate(get_list(content, "categories", name)):
        where = f"{name}, categories entry {index}"
        entry = get_object(value, where)
        category_id = get_id(entry, "id", where)
        if category_id in categories:
            raise ValueError(
                f"{where} has the id {category_id} of an earlier one; ids must be unique"
            )
        categories[category_id] = get_name(entry, category_id)
    return categories
