"""Masks as annotation files hold them: packed into bytes, and decoded where they are needed.

A segmentation is polygons, or run lengths in COCO's compressed text; both end as run lengths down
the columns, the first of them background. Training needs a mask only
at the pixels that flip, resize and crop leave of it, so `sample_mask` decodes the columns between
the instance's left and right end, and of those only what is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.polygons import rasterise_polygons
from seqformer.annotations.run_lengths import decode_mask, read_runs

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
    read_runs([text], [height * width])
    return decode_mask({"size": [height, width], "counts": text})


def read_segmentations(
    segmentations: Sequence[Segmentation], height: int, width: int
) -> list[tuple[np.ndarray, np.ndarray] | None]:
    """What `sample_mask` takes, of each segmentation: P runs of zeros [P] and of the ones that
    follow [P], int32; None where the segmentation is. They are read and checked together.

    Raises: InvalidMaskError with the position of one that is wrong.
    """
    read: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(segmentations)
    present, texts = [], []
    for position, segmentation in enumerate(segmentations):
        if segmentation is None:
            continue
        present.append(position)
        try:
            texts.append(_as_text(segmentation, height, width))
        except ValueError as error:
            raise InvalidMaskError(str(error), position) from None
    try:
        runs = read_runs(texts, [height * width] * len(texts))
    except InvalidMaskError as error:
        raise InvalidMaskError(str(error), present[error.position]) from None
    bounds = runs.first.tolist()
    for position, first, end in zip(present, bounds[:-1], bounds[1:], strict=True):
        read[position] = runs.zeros[first:end], runs.ones[first:end]
    return read


def sample_mask(
    zeros: np.ndarray,
    ones: np.ndarray,
    height: int,
    rows: np.ndarray,
    columns: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write `decode_segmentation(...)[rows[:, None], columns]` to `out`.

    Args:
        zeros, ones: of `read_segmentations`.
        rows, columns: [h], [w] pixel indices, each ascending or descending.
        out: bool [h, w], all False before.
    """
    if not ones[-1]:  # background after the last run of the instance does not matter
        zeros, ones = zeros[:-1], ones[:-1]
    is_filled = ones > 0  # runs may be empty
    if not is_filled.any():
        return
    stops = np.cumsum(zeros + ones)
    starts = stops - ones
    first, last = is_filled.argmax(), is_filled.size - 1 - is_filled[::-1].argmax()
    first_column, last_column = starts[first] // height, (stops[last] - 1) // height
    top, bottom = starts % height, (stops - 1) % height
    if (top <= bottom).all() and ones.max() <= height:
        row_span = _span(rows, top.min(), bottom.max())
    else:  # a run goes on into the next column, or is empty
        row_span = slice(0, len(rows))
    column_span = _span(columns, first_column, last_column)
    rows, columns = rows[row_span], columns[column_span] - first_column
    if not rows.size or not columns.size:
        return
    lengths = np.empty(2 * (last - first) + 3, np.int64)
    lengths[0:-1:2], lengths[1::2] = zeros[first : last + 1], ones[first : last + 1]
    lengths[0] = starts[first] - first_column * height
    lengths[-1] = (last_column + 1) * height - stops[last]
    is_instance = np.arange(lengths.size) % 2 == 1
    decoded = np.repeat(is_instance, lengths).reshape(-1, height)
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
