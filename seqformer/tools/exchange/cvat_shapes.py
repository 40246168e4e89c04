"""Shapes of CVAT as masks, and the frames between two drawn ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.masks import Size
from seqformer.annotations.polygons import rasterise_polygons
from seqformer.annotations.run_lengths import MAX_PIXELS, RLE, decode_mask
from seqformer.tools.exchange.cvat_xml import CvatShape

_EMPTY_POLYGON = 6
"""Numbers of the shortest polygon."""


def draw(shape: CvatShape, size: Size) -> np.ndarray:
    """The pixels of a shape, bool [H, W]. Polygons are drawn as COCO draws them (even-odd).

    Raises: InvalidMaskError when it is no shape that can be drawn.
    """
    if shape.kind == "mask":
        return _from_runs(shape, size)
    if shape.kind == "ellipse":
        return _ellipse(shape, size)
    if shape.kind == "box":
        left, top, right, bottom = shape.values
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        points = _turned(corners, shape.rotation)
        return _polygon([number for point in points for number in point], size)
    return _polygon(list(shape.values), size)


def runs_of(mask: np.ndarray) -> tuple[list[int], tuple[int, int, int, int]]:
    """CVAT's run lengths of a mask [H, W] with pixels: row by row in its box, zeros first.

    Returns: the runs, and the box as left, top, width, height.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    cut = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    flat = cut.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff([0, *changes.tolist(), flat.size]).tolist()
    return ([0, *runs] if flat[0] else runs), (left, top, cut.shape[1], cut.shape[0])


def fill_gaps(shapes: Sequence[CvatShape], frames: range) -> tuple[list[CvatShape], int]:
    """Shapes of a track in every frame from the first to the last, as CVAT shows them.

    CVAT writes every frame; other writers leave out what lies between two keyframes. There a shape
    moves evenly to the next one of its kind with as many points, and a mask stays as it is.

    Args:
        shapes: by ascending frame, one a frame.
        frames: of the task.

    Returns: the shapes, and how many were put in.
    """
    filled: list[CvatShape] = []
    num_filled = 0
    for i, shape in enumerate(shapes):
        filled.append(shape)
        if shape.outside or i + 1 == len(shapes):
            continue
        following = shapes[i + 1]
        moves = (
            shape.kind == following.kind != "mask"
            and len(shape.values) == len(following.values)
            and not following.outside
        )
        first = max(shape.frame + frames.step, frames.start)
        for frame in range(first, min(following.frame, frames.stop), frames.step):
            share = (frame - shape.frame) / (following.frame - shape.frame) if moves else 0.0
            values = shape.values
            rotation = shape.rotation
            if moves:
                pairs = zip(shape.values, following.values, strict=True)
                values = tuple(a + share * (b - a) for a, b in pairs)
                rotation += share * (following.rotation - shape.rotation)
            between = replace(shape, frame=frame, values=values, rotation=rotation)
            filled.append(between)
            num_filled += 1
    return filled, num_filled


def _polygon(points: list[float], size: Size) -> np.ndarray:
    if len(points) < _EMPTY_POLYGON:
        raise InvalidMaskError("is a polygon of fewer than three points")
    text = rasterise_polygons([points], *size)
    rle: RLE = {"size": list(size), "counts": text}
    return decode_mask(rle)


def _from_runs(shape: CvatShape, size: Size) -> np.ndarray:
    left, top, width, height = map(int, shape.values)
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InvalidMaskError(f"is a mask of {height} x {width} pixels")
    runs = np.array(shape.runs, np.int64)
    if runs.min() < 0 or runs.max() > MAX_PIXELS or runs.sum() > width * height:
        raise InvalidMaskError(
            f"has runs that add up to {runs.sum()} pixels; its box has {height} x {width}"
        )
    if width * height > 16 * size[0] * size[1]:
        raise InvalidMaskError(f"is a mask of {height} x {width} pixels, far beyond its frame")
    flat = np.zeros(width * height, bool)  # zeros at the end may be left out
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    flat[: len(values)] = values
    cut = flat.reshape(height, width)
    mask = np.zeros(size, bool)
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(size[0], top + height), min(size[1], left + width)
    if y0 < y1 and x0 < x1:
        mask[y0:y1, x0:x1] = cut[y0 - top : y1 - top, x0 - left : x1 - left]
    return mask


def _ellipse(shape: CvatShape, size: Size) -> np.ndarray:
    """Pixels whose centre lies inside."""
    centre_x, centre_y, radius_x, radius_y = shape.values
    if min(radius_x, radius_y) <= 0:
        return np.zeros(size, bool)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    x, y = x - centre_x, y - centre_y
    angle = math.radians(shape.rotation)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    return (along / radius_x) ** 2 + (across / radius_y) ** 2 <= 1


def _turned(points: list[tuple[float, float]], degrees: float) -> list[tuple[float, float]]:
    """Corners turned clockwise about their middle."""
    if not degrees:
        return points
    centre_x = sum(x for x, _ in points) / len(points)
    centre_y = sum(y for _, y in points) / len(points)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    moved = [(x - centre_x, y - centre_y) for x, y in points]
    return [(centre_x + x * cos - y * sin, centre_y + x * sin + y * cos) for x, y in moved]
