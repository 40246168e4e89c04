"""Polygons as COCO writes them -> run lengths, at a cost that the frame bounds.

The C rasteriser walks along every edge in steps of a fifth of a pixel and keeps every step: sixty
points a million pixels away take gigabytes, and then the process. Of such a polygon only what lies
near the frame is drawn; what still runs to and fro for a million pixels is refused. Polygons of
usual size are given to the C library as they are, so their masks are COCO's to the pixel.
"""

from __future__ import annotations

from typing import Any

from pycocotools import mask as coco_mask

from seqformer.annotations.errors import InvalidMaskError

MAX_COORDINATE = 1e6
"""Polygon points further out than this are a mistake."""
MAX_OUTLINE = 2**20
"""Pixels that the edges of a mask may walk in all; about 100 MB in the rasteriser."""
_MARGIN = 2.0
"""Pixels around the frame within which far polygons are kept."""

Point = tuple[float, float]


def check_polygons(polygons: list[Any]) -> None:
    """Raises: InvalidMaskError unless these are [[x0, y0, x1, y1, x2, y2, ...], ...] in pixels."""
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise InvalidMaskError(
                "is a list but not of polygons [x0, y0, x1, y1, x2, y2, ...] with three points "
                "or more"
            )
        if not set(map(type, polygon)) <= {int, float}:
            raise InvalidMaskError("has a polygon with coordinates that are not numbers")
        # Comparisons with NaN are false.
        if not all(-MAX_COORDINATE <= coordinate <= MAX_COORDINATE for coordinate in polygon):
            raise InvalidMaskError("has a polygon with a coordinate that is not a pixel position")


def rasterise_polygons(polygons: list[Any], height: int, width: int) -> str:
    """The compressed run lengths of the union of polygons [[x0, y0, x1, y1, ...], ...] in pixels.

    Raises: InvalidMaskError when a polygon has fewer than three points or no finite numbers, or
        when the edges are too long in all.
    """
    polygons = check_outline(polygons, height, width)
    if not polygons:
        runs: Any = {"size": [height, width], "counts": [height * width]}
        return coco_mask.frPyObjects(runs, height, width)["counts"].decode("ascii")
    merged = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return merged["counts"].decode("ascii")


def check_outline(polygons: list[Any], height: int, width: int) -> list[Any]:
    """Polygons that can be rasterised: as they are, or what of them lies near the frame.

    Raises: InvalidMaskError as `rasterise_polygons`.
    """
    check_polygons(polygons)
    if sum(map(_outline, polygons)) <= MAX_OUTLINE:
        return polygons
    polygons = [near for polygon in polygons if (near := _clip(polygon, height, width))]
    outline = sum(map(_outline, polygons))
    if outline > MAX_OUTLINE:
        raise InvalidMaskError(
            f"has polygons whose edges are {outline:.0f} pixels long in all, more than "
            f"{MAX_OUTLINE}"
        )
    return polygons


def bounds(polygons: list[list[float]]) -> tuple[float, float, float, float]:
    """The smallest and largest x and y of polygons: (x0, y0, x1, y1)."""
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _outline(polygon: list[float]) -> float:
    """Steps of a pixel along the edges: the longer of their two sides."""
    xs, ys = polygon[0::2], polygon[1::2]
    x, y, total = xs[-1], ys[-1], float(len(xs))
    for next_x, next_y in zip(xs, ys, strict=True):
        total += max(abs(next_x - x), abs(next_y - y))
        x, y = next_x, next_y
    return total


def _clip(polygon: list[float], height: int, width: int) -> list[float]:
    """What lies within `_MARGIN` of the frame, with the same inside and outside in the frame."""
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    for axis, limit, sign in (
        (0, -_MARGIN, 1),
        (0, width + _MARGIN, -1),
        (1, -_MARGIN, 1),
        (1, height + _MARGIN, -1),
    ):
        points = _clip_at(points, axis, limit, sign)
    return [coordinate for point in points for coordinate in point] if len(points) > 2 else []


def _clip_at(points: list[Point], axis: int, limit: float, sign: int) -> list[Point]:
    """The part of a polygon where sign * (coordinate - limit) >= 0 (Sutherland and Hodgman)."""
    kept: list[Point] = []
    for before, after in zip([*points[-1:], *points[:-1]], points, strict=True):
        depth_before = sign * (before[axis] - limit)
        depth_after = sign * (after[axis] - limit)
        if (depth_before < 0) != (depth_after < 0):
            share = depth_before / (depth_before - depth_after)
            other = before[1 - axis] + share * (after[1 - axis] - before[1 - axis])
            kept.append((limit, other) if axis == 0 else (other, limit))
        if depth_after >= 0:
            kept.append(after)
    return kept
