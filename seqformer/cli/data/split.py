"""Split an annotation file by video, so that every part has its share of every class.

    seqformer data split --annotations train.json --parts fit.json 0.9 held_out.json 0.1

The annotations of the public validation sets are not public; a validation set has to come out of
the training file.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Split an annotation file by video, stratified by class."""

    annotations: Path
    """File to split; it stays as it is."""
    parts: tuple[tuple[Path, float], ...]
    """Files to write and the share of each: train.json 0.9 val.json 0.1. Shares add up to 1."""
    seed: int = 0
    """Of the dealing; another seed gives other parts that are about as good."""


def check_options(options: Options) -> None:
    """Raises: ValueError saying what to change."""
    if len(options.parts) < 2:
        raise ValueError("give two parts or more: --parts train.json 0.9 val.json 0.1")
    shares = [share for _, share in options.parts]
    if min(shares) <= 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"the shares must be positive and add up to 1, got {shares}")
    if len({path for path, _ in options.parts} | {options.annotations}) <= len(options.parts):
        raise ValueError("every part needs a file of its own, and not the one that is split")
    if options.seed < 0:
        raise ValueError(f"the seed must be 0 or more, got {options.seed}")


def act(options: Options) -> None:
    """The command."""
    from seqformer.tools.annotation_json import read_sound_content, write_content
    from seqformer.tools.split import split

    check_options(options)
    content = read_sound_content(options.annotations)
    parts = split(content, [share for _, share in options.parts], options.seed)
    for (path, _), part in zip(options.parts, parts, strict=True):
        write_content(path, part)
        present = {entry["category_id"] for entry in part["annotations"]}
        logger.info(
            "%s: %d videos, %d instances of %d classes",
            path,
            len(part["videos"]),
            len(part["annotations"]),
            len(present),
        )
        absent = [str(c.get("name")) for c in content["categories"] if c["id"] not in present]
        if absent:
            logger.info("  without instances: %s", ", ".join(absent))
