"""Join annotation files into one.

    python -m seqformer.tools.merge --inputs ytvis.json own.json --output both.json

Categories are told apart by their names and keep the ids of the first file that has them, where
these are free. Videos and annotations are numbered anew.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqformer.command import exit_with
from seqformer.tools.annotation_json import Content, read_sound_content, write_content
from seqformer.tools.command import run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Join annotation files; categories of the same name become one."""

    inputs: tuple[Path, ...]
    """Files to join, two or more; they stay as they are."""
    output: Path
    """File to write."""
    prefixes: tuple[str, ...] = ()
    """Folder of each file's frames below the common image folder: --prefixes ytvis/JPEGImages own;
    by default all files name their frames from the same folder."""


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
    videos, annotations = [], []
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


def merge_files(options: Options) -> int:
    """The command."""
    if len(options.inputs) < 2:
        raise ValueError("--inputs needs two files or more")
    if options.prefixes and len(options.prefixes) != len(options.inputs):
        raise ValueError(
            f"--prefixes needs one folder per file, {len(options.inputs)}, not "
            f'{len(options.prefixes)}; "" for none'
        )
    merged = merge([read_sound_content(path) for path in options.inputs], options.prefixes)
    write_content(options.output, merged)
    logger.info(
        "%s: %d videos, %d instances, %d categories",
        options.output,
        len(merged["videos"]),
        len(merged["annotations"]),
        len(merged["categories"]),
    )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns: the exit code."""
    return run("merge", Options, merge_files, arguments)


if __name__ == "__main__":
    exit_with("merge", main)
