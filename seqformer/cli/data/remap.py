"""Rename, join or drop the categories of an annotation file, or give them the ids of another.

    seqformer data remap --annotations a.json --names names.json --output b.json

with names.json like {"sedan": "car", "truck": "car", "hand": null}: the first two become one
category, the third goes with its annotations. Categories that are not named stay.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

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


def act(options: Options) -> None:
    """The command."""
    from seqformer.tools.annotation_json import read_content, read_sound_content, write_content
    from seqformer.tools.remap import read_names, remap

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
