"""Annotation files in YouTube-VIS layout, checked, as flat arrays.

YouTube-VIS 2019 and 2021, OVIS and custom sets share one JSON layout: `videos` with `file_names`,
`categories`, and `annotations` with one box and one segmentation per frame of their video, null
where the instance is absent. Everything is checked when the file is read; pixels are decoded only
for the frames that are asked for. The result can be kept in a cache folder (`cache.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqformer.annotations.cache import cached_annotations
from seqformer.annotations.json_file import read_json_file
from seqformer.annotations.mask_packer import MaskPacker, Presence
from seqformer.annotations.packed import PackedAnnotations, PackedBuilder, Videos
from seqformer.annotations.reader import read_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnnotationSet:
    """Content of one annotation file; that of still images has one-frame videos.

    Attributes:
        path: where it was read.
        packed: the flat arrays.
        categories: {"id": int, "name": str}, in the order of the file.
    """

    path: Path
    packed: PackedAnnotations
    categories: list[dict[str, Any]]

    @property
    def arena(self) -> PackedAnnotations:
        """`packed`, by its former name."""
        return self.packed

    @property
    def videos(self) -> Videos:
        """In the order of the file."""
        return Videos(self.packed)

    @property
    def num_instances(self) -> int:
        """Of all videos, crowds included."""
        return len(self.packed.columns.annotation_ids)


def load_annotation_file(
    path: str | Path,
    require_annotations: bool = False,
    cache: Path | None = None,
    presence: Presence = "mask",
) -> AnnotationSet:
    """Read and check an annotation file.

    Args:
        require_annotations: whether a file without any instance is an error. Public validation
            files have no `annotations`; their videos then have no instances.
        cache: folder for the flat form, which is then read next time and shared by all processes
            of the machine; without one, every process parses the JSON for itself.
        presence: what decides whether an instance is in a frame; see `MaskPacker`.

    Raises: FileNotFoundError; ValueError naming the file, the entry and what is wrong with it.
    """
    path = Path(path)
    packed = cached_annotations(path, f"ytvis {presence}", cache, lambda: _parse(path, presence))
    for sentence in packed.extra["notes"]:
        logger.warning("%s", sentence)
    loaded = AnnotationSet(path=path, packed=packed, categories=list(packed.extra["categories"]))
    if require_annotations and not loaded.num_instances:
        raise ValueError(
            f"{path} has no annotations, so there is nothing to train on or to compare with; give "
            "a file with instances (the public validation and test files have none)"
        )
    return loaded


def _parse(path: Path, presence: Presence) -> PackedAnnotations:
    content = read_json(path)

    def forget(index: int) -> None:
        content["annotations"][index] = None  # what is packed need not wait for the rest

    return pack_annotations(str(path), content, presence, forget)


def pack_annotations(
    name: str,
    content: dict[str, Any],
    presence: Presence = "mask",
    forget: Callable[[int], None] | None = None,
) -> PackedAnnotations:
    """The flat form of an annotation file.

    Args:
        name: what to call it in messages.
        content: its JSON.
        forget: called with the position of an annotation that is not needed any more.

    Raises: ValueError naming the entry and what is wrong with it.
    """
    for key in ("videos", "categories"):
        if not isinstance(content.get(key), list) or not content[key]:
            raise ValueError(f"{name} has no {key}; a YouTube-VIS annotation file lists them")
    file = read_file(name, content)
    builder = PackedBuilder()
    position_of = {}
    for position, video in enumerate(file.videos.values()):
        if video.size is None:
            raise ValueError(f"{video.where} has no height and width; training needs them")
        if video.file_names is None:
            raise ValueError(f"{video.where} has no 'file_names'; training needs the frames")
        builder.add_video(video.id, *video.size, video.file_names)
        position_of[video.id] = position
    packer = MaskPacker(presence)

    for entry in file.instances(forget):
        size = file.videos[entry.video_id].size
        assert size is not None
        builder.add_instance(
            position_of[entry.video_id], entry.number, entry.category_id, entry.is_crowd
        )
        packer.add(entry.where, entry.segmentations, entry.boxes, size)
    builder.boxes, builder.packed = packer.finish(file.notes)
    categories = [{"id": i, "name": name} for i, name in file.categories.items()]
    return builder.build({"categories": categories, "notes": file.notes.sentences()})


def read_json(path: Path, *, compress_lists: bool = False) -> dict[str, Any]:
    """The object in an annotation file; see `read_json_file`.

    Raises: FileNotFoundError, ValueError.
    """
    content = read_json_file(path, "annotation file", compress_lists=compress_lists)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a JSON {type(content).__name__}, not an object with videos, categories "
            "and annotations; is it a results file?"
        )
    return content
