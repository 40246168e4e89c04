"""Masks as polygons along the edges of their pixels: drawn by COCO's rules they give every pixel.

A part of a mask is one ring, its outline. A hole is reached by a cut of no width from the first
corner, and the ring goes around it the other way: by the even-odd rule it stays empty.
"""

from __future__ import annotations

import cv2
import numpy as np

Point = tuple[int, int]
"""x and y of a corner of pixels."""


def outlines(mask: np.ndarray) -> list[list[Point]]:
    """A ring for every part of a mask [H, W], the largest part first. Parts touch at no edge."""
    number, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=4
    )
    parts = sorted(range(1, number), key=lambda i: -int(stats[i, cv2.CC_STAT_AREA]))
    made = []
    for i in parts:
        left, top, width, height = stats[i, :4].tolist()
        part = labels[top : top + height, left : left + width] == i
        outer, *holes = sorted(_rings(part), key=lambda ring: -_area(ring))
        ring = list(outer)
        for hole in holes:
            ring += [outer[0], *hole, hole[0]]
        made.append([(x + left, y + top) for x, y in ring])
    return made


def _rings(mask: np.ndarray) -> list[list[Point]]:
    """The borders of a mask as rings of corners: outlines clockwise, holes the other way."""
    padded = np.pad(mask, 1)
    ways: dict[Point, list[Point]] = {}
    inside = padded[1:-1, 1:-1]
    for beside, start, end in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # above
        (padded[1:-1, 2:], (1, 0), (1, 1)),  # right
        (padded[2:, 1:-1], (1, 1), (0, 1)),  # below
        (padded[1:-1, :-2], (0, 1), (0, 0)),  # left
    ):
        for y, x in np.argwhere(inside & ~beside).tolist():
            ways.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    rings = []
    while ways:
        first = next(iter(ways))
        here, step = first, (0, 0)
        ring: list[Point] = []
        while True:
            ends = ways[here]
            # Where two pixels touch at a corner the way turns right, around one of them.
            right = (here[0] - step[1], here[1] + step[0])
            there = ends.pop(ends.index(right) if right in ends else 0)
            if not ends:
                del ways[here]
            turn = there[0] - here[0], there[1] - here[1]
            if turn != step:
                ring.append(here)
            here, step = there, turn
            if here == first:
                break
        rings.append(ring)
    return rings


def _area(ring: list[Point]) -> float:
    """Positive for an outline, negative for a hole."""
    following = [*ring[1:], ring[0]]
    return sum(x * b - a * y for (x, y), (a, b) in zip(ring, following, strict=True)) / 2
