"""Rename, join or drop the categories of an annotation file, or give them the ids of another.

with names.json like {"sedan": "car", "truck": "car", "hand": null}: the first two become one
category, the third goes with its annotations. Categories that are not named stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqformer.annotations.json_file import read_json_file
from seqformer.former import Former
from seqformer.tools.annotation_json import Content


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


main = Former("data remap")

if __name__ == "__main__":
    main.console()
