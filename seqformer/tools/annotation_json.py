"""Annotation files as they are: read leniently, changed, and written again with all other keys."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import orjson

from seqformer.annotations.ytvis import read_json
from seqformer.files import write_json, writing_to

logger = logging.getLogger(__name__)

Content = dict[str, Any]
"""An annotation file: videos, categories, annotations and whatever else it holds."""


def read_content(path: Path) -> Content:
    """Read an annotation file; missing or null annotations become an empty list.

    Masks that are lists of runs come back as compressed text, which means the same.
    Raises: FileNotFoundError; ValueError when it is not the JSON of an annotation file.
    """
    content = read_json(path, compress_lists=True)
    for key in ("videos", "categories"):
        if not isinstance(content.get(key), list):
            raise ValueError(f"{path} has no list of {key}; a YouTube-VIS annotation file has one")
    if content.get("annotations") is None:
        content["annotations"] = []
    if not isinstance(content["annotations"], list):
        raise ValueError(f"{path}: annotations must be a list, one object per instance")
    return content


def read_sound_content(path: Path) -> Content:
    """The same, for commands that rely on ids: unique, and known where they are referred to.

    Raises: also ValueError naming the first entry that is not sound, and the command that mends it.
    """
    content = read_content(path)
    remedy = "seqformer data check --fix mends such files"
    ids: dict[str, set[int]] = {}
    for key in ("videos", "categories"):
        ids[key] = set()
        for i, entry in enumerate(content[key]):
            number = entry.get("id") if isinstance(entry, dict) else None
            if type(number) is not int or number in ids[key]:
                raise ValueError(
                    f"{path}: {key} entry {i} has no id of its own (it has {number!r}); {remedy}"
                )
            ids[key].add(number)
    for i, entry in enumerate(content["annotations"]):
        for key, kind in (("video_id", "videos"), ("category_id", "categories")):
            number = entry.get(key) if isinstance(entry, dict) else None
            if type(number) is not int or number not in ids[kind]:
                raise ValueError(
                    f"{path}: annotations entry {i} has {key} {number!r}, which is not among the "
                    f"{kind} of the file; {remedy}"
                )
    return content


def write_content(path: Path, content: Any) -> None:
    """Write JSON; `path` holds either the old or the whole new content at any time.

    Raises: ValueError or WriteError naming a path that cannot be written.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")
    try:  # NaN, which not every program reads, becomes null
        content = orjson.loads(orjson.dumps(content))
    except (TypeError, ValueError):
        logger.debug("%s is written as it is", path)  # numbers beyond 64 bits
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def num_frames(video: dict[str, Any]) -> int:
    """Frames that a video lists."""
    names = video.get("file_names")
    return len(names) if isinstance(names, list) else 0
