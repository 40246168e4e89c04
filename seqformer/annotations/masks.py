"""One entry of `segmentations`: whatever it is made of -> its size and compressed run lengths."""

from __future__ import annotations

from functools import cache
from typing import Any

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.polygons import rasterise_polygons
from seqformer.annotations.run_lengths import MAX_PIXELS, compress_runs

Size = tuple[int, int]
"""(height, width)."""


def parse_mask(segmentation: Any, canvas: Size | None) -> tuple[Size | None, str]:
    """One entry of `segmentations` as the size of the mask, None if absent, and compressed text.

    The text itself is not checked; `run_lengths.read_runs` does that, for many at once.

    Args:
        segmentation: None or nothing ([], {}, ""), a compressed or uncompressed RLE dict, or a
            list of polygons.
        canvas: what polygons are drawn on; None if the video does not tell.

    Raises: InvalidMaskError saying what the entry is instead.
    """
    if type(segmentation) is dict and segmentation:
        size: Any = segmentation.get("size")
        counts: Any = segmentation.get("counts")
        if type(size) not in (list, tuple) or len(size) != 2 or not is_size(*size):
            raise InvalidMaskError(f"has size {size!r:.40}; needed are two positive integers")
        if type(counts) is str and counts:
            return (size[0], size[1]), counts
        if type(counts) is bytes:
            counts = counts.decode("latin-1")
        elif type(counts) is list:
            counts = compress_runs(counts) if counts else ""
        elif type(counts) is not str:
            raise InvalidMaskError(f"has counts {counts!r:.40}; needed is the text of a COCO RLE")
        return (size[0], size[1]), counts or blank_text(*size)
    if segmentation is None or segmentation in ([], {}, ""):
        return None, ""
    if type(segmentation) is not list:
        raise InvalidMaskError(
            f"is {segmentation!r:.40}; needed is null or an RLE "
            '{"size": [height, width], "counts": "..."}'
        )
    if canvas is None:
        raise InvalidMaskError(
            "is made of polygons, but its video has no height and width to draw them on"
        )
    return canvas, rasterise_polygons(segmentation, *canvas)


def is_size(height: Any, width: Any) -> bool:
    """Whether these are the sides of an image."""
    return (
        type(height) is int is type(width) and height > 0 < width and height * width <= MAX_PIXELS
    )


@cache
def blank_text(height: int, width: int) -> str:
    """A mask without ones."""
    return compress_runs([height * width])
