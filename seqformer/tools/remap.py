"""Rename, join or drop the categories of an annotation file, or give them the ids of another.

    python -m seqformer.tools.remap --annotations a.json --names names.json --output b.json

with names.json like {"sedan": "car", "truck": "car", "hand": null}: the first two become one
category, the third goes with its annotations. Categories that are not named stay.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqformer.annotations.json_file import read_json_file
from seqformer.command import exit_with
from seqformer.tools.annotation_json import Content, read_content, read_sound_content, write_content
from seqformer.tools.command import run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Rename, join or drop categories; or number them as another file does."""

    annotations: Path
    """File to change; it stays as it is."""
    output: Path
    """File to write."""
    names: Path | None = None
    """JSON object of old name -> new name, or null to drop the category."""
    like: Path | None = None
    """Annotation file whose categories (ids, names, order) the new file has."""
    drop_others: bool = False
    """Drop categories that `names` does not mention, or that `like` does not have."""
    drop_empty_videos: bool = False
    """Drop videos that have lost all their annotations."""


def remap(
    content: Content,
    names: Mapping[str, str | None],
    like: Sequence[Mapping[str, Any]] | None = None,
    drop_others: bool = False,
    drop_empty_videos: bool = False,
) -> Content:
    """The same file with other categories.

    Args:
        content: from `read_sound_content`.
        names: old name -> new name or None.
        like: the categories to end with; None to keep the ids (of the first of joined ones).

    Raises: ValueError naming a category that is not there or has no place to go.
    """
    own = {
        category["id"]: str(category.get("name", category["id"]))
        for category in content["categories"]
    }
    unknown = sorted(set(names) - set(own.values()))
    if unknown:
        raise ValueError(
            f"there is no category {', '.join(map(repr, unknown))}; there are "
            f"{', '.join(map(repr, sorted(own.values())))}"
        )
    drops_unnamed = drop_others and bool(names)
    new_name = {k: names.get(name, None if drops_unnamed else name) for k, name in own.items()}
    if like is None:
        categories, ids = [], {}
        for category in content["categories"]:
            name = new_name[category["id"]]
            if name is not None and name not in ids:
                ids[name] = category["id"]
                categories.append({**category, "name": name})
    else:
        categories = [dict(category) for category in like]
        ids = {str(category["name"]): category["id"] for category in categories}
        homeless = sorted({name for name in new_name.values() if name is not None} - set(ids))
        if homeless and not drop_others:
            raise ValueError(
                f"the target has no category {', '.join(map(repr, homeless))}; give it another "
                "name with --names, or drop what has no place with --drop-others"
            )
    annotations = []
    for entry in content["annotations"]:
        name = new_name[entry["category_id"]]
        if name is not None and name in ids:
            annotations.append({**entry, "category_id": ids[name]})
    videos = content["videos"]
    if drop_empty_videos:
        before = {entry["video_id"] for entry in content["annotations"]}
        lost = before - {entry["video_id"] for entry in annotations}
        videos = [video for video in videos if video["id"] not in lost]
    return {**content, "videos": videos, "categories": categories, "annotations": annotations}


def read_names(path: Path | None) -> dict[str, str | None]:
    """The names file. Raises: FileNotFoundError; ValueError when it is no such object."""
    if path is None:
        return {}
    names = read_json_file(path, "names file")
    if not isinstance(names, dict) or not all(
        name is None or (isinstance(name, str) and name) for name in names.values()
    ):
        raise ValueError(
            f'{path} must hold one object, old name -> new name or null: {{"sedan": "car"}}'
        )
    return names


def remap_file(options: Options) -> int:
    """The command."""
    if options.names is None and options.like is None:
        raise ValueError("give --names, --like or both")
    content = read_sound_content(options.annotations)
    like = None
    if options.like is not None:
        like = read_content(options.like)["categories"]
        if not all(
            isinstance(c, dict) and type(c.get("id")) is int and c.get("name") for c in like
        ):
            raise ValueError(f"{options.like} has categories without an integer id or a name")
    changed = remap(
        content, read_names(options.names), like, options.drop_others, options.drop_empty_videos
    )
    write_content(options.output, changed)
    logger.info(
        "%s: %d categories (of %d), %d annotations (of %d), %d videos (of %d)",
        options.output,
        len(changed["categories"]),
        len(content["categories"]),
        len(changed["annotations"]),
        len(content["annotations"]),
        len(changed["videos"]),
        len(content["videos"]),
    )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns: the exit code."""
    return run("remap", Options, remap_file, arguments)


if __name__ == "__main__":
    exit_with("remap", main)
