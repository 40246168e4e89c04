"""Masks as annotation files hold them: packed into bytes, and decoded where they are needed.

A segmentation is polygons, run lengths as numbers, or run lengths in COCO's compressed text; all
three end as run lengths down the columns, the first of them background. Training needs a mask only
at the pixels that flip, resize and crop leave of it, so `sample_mask` decodes the columns between
the instance's left and right end, and of those only what is asked for.
"""

from __future__ import annotations

import numpy as np
import orjson

from seqformer.annotations.polygons import rasterise_polygons

Segmentation = str | np.ndarray | list[list[float]] | None
"""Compressed runs, plain runs [R], polygons, or None where the instance is absent."""

MAX_RUN_CHARACTERS = 6
"""Characters of one compressed run length: 30 bits with the sign."""
_COMPRESSED, _POLYGONS, _PLAIN = b"rpn"
"""First byte of a packed segmentation."""


def pack_segmentation(segmentation: Segmentation, height: int, width: int) -> bytes:
    """A segmentation in few bytes; empty for None. Sound plain runs are compressed."""
    if segmentation is None:
        return b""
    if isinstance(segmentation, str):
        return bytes([_COMPRESSED]) + segmentation.encode("utf-8")
    if isinstance(segmentation, list):
        return bytes([_POLYGONS]) + orjson.dumps(segmentation)
    if segmentation.size and segmentation.min() >= 0 and segmentation.sum() == height * width:
        return bytes([_COMPRESSED]) + _compress_runs(segmentation)
    return bytes([_PLAIN]) + segmentation.astype(np.int64).tobytes()  # refused when decoded


def unpack_segmentation(packed: bytes) -> Segmentation:
    """Inverse of `pack_segmentation`, but for the compression."""
    if not packed:
        return None
    if packed[0] == _COMPRESSED:
        return packed[1:].decode("utf-8")
    return orjson.loads(packed[1:]) if packed[0] == _POLYGONS else np.frombuffer(packed[1:], int)


def decode_mask(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """One segmentation as bool [H, W]; all False where it is None.

    Raises: ValueError saying what is wrong with it.
    """
    if segmentation is None:
        return np.zeros((height, width), bool)
    runs = mask_runs(segmentation, height, width)
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(width, height).T


def sample_mask(
    segmentation: Segmentation,
    height: int,
    width: int,
    rows: np.ndarray,
    columns: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write `decode_mask(...)[rows[:, None], columns]` to `out`.

    Args:
        rows, columns: [h], [w] pixel indices, each ascending or descending.
        out: bool [h, w], all False before.

    Raises: ValueError saying what is wrong with the segmentation.
    """
    if segmentation is None:
        return
    runs = mask_runs(segmentation, height, width)
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


def mask_runs(
    segmentation: str | np.ndarray | list[list[float]], height: int, width: int
) -> np.ndarray:
    """Checked run lengths [R] down the columns, int; the first, third, ... are background.

    Raises: ValueError saying what is wrong with them.
    """
    if isinstance(segmentation, list):
        segmentation = rasterise_polygons(segmentation, height, width)
    runs = _parse_runs(segmentation) if isinstance(segmentation, str) else segmentation
    if runs.size and runs.min() < 0:
        raise ValueError("has a negative run length")
    if runs.sum() != height * width:
        raise ValueError(f"has runs of {runs.sum()} pixels in all instead of {height} x {width}")
    return runs


def _span(index: np.ndarray, low: int, high: int) -> slice:
    """The part of an ascending or descending index that lies in low .. high."""
    if index.size and index[0] > index[-1]:
        span = _span(index[::-1], low, high)
        return slice(index.size - span.stop, index.size - span.start)
    return slice(int(np.searchsorted(index, low)), int(np.searchsorted(index, high, "right")))


def _compress_runs(runs: np.ndarray) -> bytes:
    """Inverse of `_parse_runs`: run lengths [R] in as few characters as they fit in."""
    values = runs.astype(np.int64)
    values[3:] -= runs[1:-2]
    length = np.ones(values.size, np.int64)
    for bits in range(4, 5 * MAX_RUN_CHARACTERS - 1, 5):
        length += (values >= 1 << bits) | (values < -(1 << bits))
    start = np.cumsum(length) - length
    place = np.arange(length.sum()) - np.repeat(start, length)
    code = (np.repeat(values, length) >> (5 * place)) & 31
    code |= np.where(place < np.repeat(length, length) - 1, 32, 0)
    return (code + 48).astype(np.uint8).tobytes()


def _parse_runs(counts: str) -> np.ndarray:
    """Compressed run lengths of COCO as int64 [R].

    Each number is written in groups of five bits, lowest first, `chr(48 + bits)`, plus 32 where
    more follow; from the fourth on it is the difference to the number two places earlier.
    """
    code = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not counts.isascii() or code.min() < 0 or code.max() > 63:
        raise ValueError("has a foreign character in its counts")
    is_last = code < 32
    if not is_last[-1]:
        raise ValueError("has counts that stop in the middle of a number")
    stop = np.flatnonzero(is_last)
    start = np.append(0, stop[:-1] + 1)
    length = stop - start + 1
    if length.max() > MAX_RUN_CHARACTERS:
        raise ValueError("has a run length of absurd size")
    place = np.arange(code.size) - np.repeat(start, length)
    values = np.add.reduceat((code & 31) << (5 * place), start)
    values -= np.where(code[stop] & 16, 1 << (5 * length), 0)  # two's complement
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
