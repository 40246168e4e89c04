"""Join annotation files into one.

    seqformer data merge --inputs ytvis.json own.json --output both.json

Categories are told apart by their names.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

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


def act(options: Options) -> None:
    """The command."""
    from seqformer.tools.annotation_json import read_sound_content, write_content
    from seqformer.tools.merge import merge

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
