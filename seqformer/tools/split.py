"""Split an annotation file by video, so that every part has its share of every class.

    python -m seqformer.tools.split --annotations train.json --parts fit.json 0.9 held_out.json 0.1

The annotations of the public validation sets are not public; a validation set has to come out of
the training file. Videos are never divided. They are dealt out class by class, the rarest first
(Sechidis, Tsoumakas & Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011,
algorithm 1, with instances in place of labels): the next video of the class goes to the part that
lacks most of it. The same file, shares and seed give the same parts.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqformer.tools.annotation_json import Content, read_sound_content, write_content
from seqformer.tools.command import run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Split an annotation file by video, stratified by class."""

    annotations: Path
    """File to split; it stays as it is."""
    parts: tuple[tuple[Path, float], ...]
    """Files to write and the share of each: train.json 0.9 val.json 0.1. Shares add up to 1."""
    seed: int = 0
    """Decides between videos and parts that are equally good."""


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


def split(content: Content, shares: Sequence[float], seed: int) -> list[Content]:
    """The parts, each with all categories and its own videos and annotations in file order.

    Raises: ValueError when there are fewer videos than parts.
    """
    videos = content["videos"]
    if len(videos) < len(shares):
        raise ValueError(f"{len(videos)} videos cannot be split into {len(shares)} parts")
    place = {video["id"]: v for v, video in enumerate(videos)}
    column = {category["id"]: k for k, category in enumerate(content["categories"])}
    counts = np.zeros((len(videos), len(column)))
    for entry in content["annotations"]:
        counts[place[entry["video_id"]], column[entry["category_id"]]] += 1
    part_of = assign(counts, np.array(shares), np.random.default_rng(seed))
    return [
        {
            **content,
            "videos": [video for v, video in enumerate(videos) if part_of[v] == part],
            "annotations": [
                entry
                for entry in content["annotations"]
                if part_of[place[entry["video_id"]]] == part
            ],
        }
        for part in range(len(shares))
    ]


def assign(counts: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deal out the videos.

    Args:
        counts: [V, K] instances of every class.
        shares: [P] of every part.

    Returns: [V] the part of every video; no part is empty.
    """
    part_of = np.full(len(counts), -1)
    wanted = shares[:, None] * counts.sum(axis=0)  # [P, K] instances that a part still lacks
    room = shares * len(counts)  # [P] videos that it still lacks
    order = rng.permutation(len(counts))
    while (free := order[part_of[order] < 0]).size:
        left = counts[free].sum(axis=0)
        if left.any():
            rarest = np.where(left > 0, left, np.inf).argmin()
            of_class = free[counts[free, rarest] > 0]
            # Crowded videos first, while there is room to make up for them.
            of_class = of_class[np.argsort(-counts[of_class, rarest], kind="stable")]
            lacking = wanted[:, rarest]
        else:
            of_class, lacking = free, room
        video = of_class[0]
        if free.size <= (empty := np.setdiff1d(np.arange(len(shares)), part_of)).size:
            part = empty[room[empty].argmax()]
        else:
            best = np.flatnonzero(np.isclose(lacking, lacking.max()))
            best = best[np.isclose(room[best], room[best].max())]
            part = rng.choice(best)
        part_of[video] = part
        wanted[part] -= counts[video]
        room[part] -= 1
    return part_of


def split_file(options: Options) -> int:
    """The command."""
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
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns: the exit code."""
    return run("split", Options, split_file, arguments)


if __name__ == "__main__":
    sys.exit(main())
