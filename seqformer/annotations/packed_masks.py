"""Masks as annotation files hold them: packed into bytes, and decoded where they are needed.

A segmentation is polygons, or run lengths in COCO's compressed text; both end as run lengths down
the columns, the first of them background. Training needs a mask only
at the pixels that flip, resize and crop leave of it, so `sample_mask` decodes the columns between
the instance's left and right end, and of those only what is asked for.
"""

from __future__ import annotations

import numpy as np
import orjson

from seqformer.annotations.polygons import rasterise_polygons
from seqformer.annotations.run_lengths import decode_mask, read_mask

Segmentation = str | list[list[float]] | None
"""Compressed runs, polygons, or None where the instance is absent."""

_COMPRESSED, _POLYGONS = b"rp"
"""First byte of a packed segmentation."""


def pack_segmentation(segmentation: Segmentation) -> bytes:
    """A segmentation in few bytes; empty for None."""
    if segmentation is None:
        return b""
    if isinstance(segmentation, str):
        return bytes([_COMPRESSED]) + segmentation.encode("utf-8")
    return bytes([_POLYGONS]) + orjson.dumps(segmentation)


def unpack_segmentation(packed: bytes) -> Segmentation:
    """Inverse of `pack_segmentation`."""
    if not packed:
        return None
    return packed[1:].decode("utf-8") if packed[0] == _COMPRESSED else orjson.loads(packed[1:])


def decode_segmentation(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """One segmentation as bool [H, W]; all False where it is None.

    Raises: ValueError saying what is wrong with it.
    """
    if segmentation is None:
        return np.zeros((height, width), bool)
    text = _as_text(segmentation, height, width)
    read_mask(text, height * width)
    return decode_mask({"size": [height, width], "counts": text})


def sample_mask(
    segmentation: Segmentation,
    height: int,
    width: int,
    rows: np.ndarray,
    columns: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write `decode_segmentation(...)[rows[:, None], columns]` to `out`.

    Args:
        rows, columns: [h], [w] pixel indices, each ascending or descending.
        out: bool [h, w], all False before.

    Raises: ValueError saying what is wrong with the segmentation.
    """
    if segmentation is None:
        return
    runs = read_mask(_as_text(segmentation, height, width), height * width)
    runs = runs[: runs.size // 2 * 2]  # background after the last instance run does not matter
    is_filled = runs[1::2] > 0  # runs may be empty
    if not is_filled.any():
        return
    stops = np.cumsum(runs)[1::2]
    starts = stops - runs[1::2]
    first, last = is_filled.argmax(), is_filled.size - 1 - is_filled[::-1].argmax()
    first_column, last_column = starts[first] // height, (stops[last] - 1) // height
    top, bottom = starts % height, (stops - 1) % height
    if (top <= bottom).all() and runs[1::2].max() <= height:
        row_span = _span(rows, top.min(), bottom.max())
    else:  # a run goes on into the next column, or is empty
        row_span = slice(0, len(rows))
    column_span = _span(columns, first_column, last_column)
    rows, columns = rows[row_span], columns[column_span] - first_column
    if not rows.size or not columns.size:
        return
    inner = runs[2 * first : 2 * last + 2].copy()
    inner[0] = starts[first] - first_column * height
    is_instance = np.arange(inner.size + 1) % 2 == 1
    rest = (last_column + 1) * height - stops[last]
    decoded = np.repeat(is_instance, np.append(inner, rest)).reshape(-1, height)
    out[row_span, column_span] = decoded[columns].take(rows, axis=1).T


def _as_text(segmentation: str | list[list[float]], height: int, width: int) -> str:
    """Compressed runs, not checked. Raises: ValueError for polygons that cannot be drawn."""
    if isinstance(segmentation, str):
        return segmentation
    return rasterise_polygons(segmentation, height, width)


def _span(index: np.ndarray, low: int, high: int) -> slice:
    """The part of an ascending or descending index that lies in low .. high."""
    if index.size and index[0] > index[-1]:
        span = _span(index[::-1], low, high)
        return slice(index.size - span.stop, index.size - span.start)
    return slice(int(np.searchsorted(index, low)), int(np.searchsorted(index, high, "right")))
