"""Join annotation files into one.

Categories are told apart by their names and keep the ids of the first file that has them, where
these are free. Videos and annotations are numbered anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seqformer.former import Former
from seqformer.tools.annotation_json import Content


def merge(contents: Sequence[Content], prefixes: Sequence[str] = ()) -> Content:
    """One file with the videos of all.

    Raises: ValueError when two files list the same frames, which is nearly always a mistake.
    """
    ids: dict[str, int] = {}
    categories = []
    for content in contents:
        for category in content["categories"]:
            name = str(category.get("name", category["id"]))
            if name not in ids:
                taken = set(ids.values())
                number = category["id"]
                if number in taken:
                    number = max(taken) + 1
                ids[name] = number
                categories.append({**category, "id": number, "name": name})
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    first_with: dict[str, int] = {}
    for c, content in enumerate(contents):
        prefix = prefixes[c].strip("/") + "/" if prefixes and prefixes[c] else ""
        names = {k["id"]: str(k.get("name", k["id"])) for k in content["categories"]}
        new_ids = {}
        for video in content["videos"]:
            new_ids[video["id"]] = len(videos) + 1
            files = [prefix + name for name in video.get("file_names") or []]
            if files and first_with.setdefault(files[0], c) != c:
                raise ValueError(
                    f"inputs {first_with[files[0]] + 1} and {c + 1} both have the frame "
                    f"{files[0]}; if these are different pictures, give them --prefixes"
                )
            videos.append({**video, "id": len(videos) + 1, "file_names": files})
        for entry in content["annotations"]:
            changes = {
                "id": len(annotations) + 1,
                "video_id": new_ids[entry["video_id"]],
                "category_id": ids[names[entry["category_id"]]],
            }
            annotations.append({**entry, **changes})
    return {**contents[0], "videos": videos, "categories": categories, "annotations": annotations}


main = Former("data merge")

if __name__ == "__main__":
    main.console()
