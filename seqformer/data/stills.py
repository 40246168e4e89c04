"""Single pictures to run a model on: those that a COCO file lists, or all in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seqformer.annotations.coco_file import read_coco_file
from seqformer.annotations.rules import is_crowd
from seqformer.data.video_sources import (
    IMAGE_SUFFIXES,
    VideoSource,
    safe_name,
    walk_files,
    with_unique_names,
)
from seqformer.files import natural_key
from seqformer.safe_files import inside


@dataclass(frozen=True, kw_only=True)
class ListedStills:
    """The pictures of a file in COCO layout.

    Attributes:
        sources: all of them, also those without instances.
        names: category id -> name.
        has_instances: whether there is anything to score against.
    """

    sources: list[VideoSource]
    names: dict[int, str]
    has_instances: bool


def listed_stills(path: Path, images: Path, allow_outside: bool = False) -> ListedStills:
    """The pictures of a file in COCO layout, which lie under `images`.

    Raises: FileNotFoundError; ValueError naming the file and the entry, also for file names that
        lead out of `images`, unless `allow_outside`.
    """
    listed = read_coco_file(path)
    sources = [
        _picture(name, inside(images, name, allow_outside=allow_outside), image_id, size)
        for image_id, (size, name) in listed.images.items()
    ]
    return ListedStills(
        sources=with_unique_names(sources),
        names=listed.names,
        has_instances=any(
            not is_crowd(annotation.get("iscrowd"), where)
            for where, annotation in listed.annotations
        ),
    )


def find_stills(path: Path) -> list[VideoSource]:
    """A picture, or all pictures in a folder and the folders in it, by natural order of the names;
    ids count from 1. Raises: FileNotFoundError, ValueError."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a picture or a folder of pictures")
    if not path.is_dir():
        return [_picture(path.name, path, 1)]
    found = sorted(_pictures_in(path), key=lambda name: natural_key(name))
    if not found:
        raise ValueError(f"{path} holds no pictures ({' '.join(sorted(IMAGE_SUFFIXES))})")
    sources = [_picture(name, path / name, number) for number, name in enumerate(found, start=1)]
    return with_unique_names(sources)


def _pictures_in(folder: Path) -> Iterator[str]:
    for place, files in walk_files(folder):
        for file in files:
            if file.suffix.lower() in IMAGE_SUFFIXES:
                yield (place / file.name).relative_to(folder).as_posix()


def _picture(
    name: str, path: Path, image_id: int, size: tuple[int, int] | None = None
) -> VideoSource:
    stem = re.sub(r"[^\w.-]+", "_", str(Path(name).with_suffix(""))).strip("._")
    return VideoSource(
        video_id=image_id,
        name=safe_name(stem, image_id),
        first_file_name=name,
        paths=(path,),
        is_still=True,
        listed_size=size,
    )
