"""Split an annotation file by video, so that every part has its share of every class.

The annotations of the public validation sets are not public; a validation set has to come out of
the training file. Videos are never divided. They are dealt out at random, and then moved and
exchanged between the parts for as long as that brings the instances of every class, and the videos,
closer to their shares. The same file, shares and seed give the same parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seqformer.former import Former
from seqformer.tools.annotation_json import Content

MAX_PASSES = 20
MAX_PARTNERS = 400
"""Videos, at random, with which an exchange is tried."""


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
    """Deal out V videos.

    What is made small is the sum over parts and classes of (instances - expected)^2 / expected,
    where the videos themselves are one class more.

    Args:
        counts: [V, K] instances of every class.
        shares: [P] of every part.

    Returns: [V] the part of every video; no part is empty.
    """
    num_videos, num_parts = len(counts), len(shares)
    ends = np.rint(np.cumsum(shares) * num_videos).astype(int)
    for part in range(num_parts):  # one video each at least
        ends[part] = np.clip(ends[part], ends[part - 1] + 1 if part else 1, num_videos)
    ends = np.minimum(ends, num_videos - np.arange(num_parts)[::-1])
    part_of = np.empty(num_videos, int)
    part_of[rng.permutation(num_videos)] = np.searchsorted(ends, np.arange(num_videos), "right")

    columns = np.concatenate([counts, np.ones((num_videos, 1))], axis=1)
    columns = columns[:, columns.any(axis=0)]  # [V, K]
    expected = shares[:, None] * columns.sum(axis=0)  # [P, K]
    excess = np.stack([columns[part_of == p].sum(axis=0) for p in range(num_parts)]) - expected
    for _ in range(MAX_PASSES):
        before = part_of.copy()
        for video in rng.permutation(num_videos):
            _improve(video, columns, part_of, excess, expected, rng)
        if (part_of == before).all():
            break
    return part_of


def _improve(
    video: int,
    columns: np.ndarray,
    part_of: np.ndarray,
    excess: np.ndarray,
    expected: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Move a video to another part, alone or for one of its videos, if that helps."""
    own = part_of[video]
    partners = np.flatnonzero(part_of != own)
    if partners.size > MAX_PARTNERS:
        partners = rng.choice(partners, MAX_PARTNERS, replace=False)
    leaves = columns[video] - columns[partners]  # [J, K]: what the own part loses
    gets = part_of[partners]
    if np.count_nonzero(part_of == own) > 1:
        others = np.setdiff1d(np.arange(len(expected)), own)
        leaves = np.concatenate([leaves, columns[[video] * others.size]])
        gets = np.concatenate([gets, others])
    change = (leaves * (leaves - 2 * excess[own]) / expected[own]).sum(axis=1)
    change += (leaves * (leaves + 2 * excess[gets]) / expected[gets]).sum(axis=1)
    best = int(change.argmin())
    if change[best] > -1e-9:
        return
    part_of[video] = gets[best]
    if best < partners.size:
        part_of[partners[best]] = own
    excess[own] -= leaves[best]
    excess[gets[best]] += leaves[best]


main = Former("data split")

if __name__ == "__main__":
    main.console()
