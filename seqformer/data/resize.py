"""Pillow's bilinear, antialiased resize, bit for bit, and of any window of its result.

Pillow weights the pixels of a row with integers of 22 bits, rounds to 8 bits, and does the same
with columns. Here each step is a product of a sparse and a dense integer matrix (of SciPy), which
runs at the speed of memory, in less than half of Pillow's time; and what lies outside a crop is
never computed. Rows always go first, as in every Pillow before 13 (newer ones begin with columns
where the height shrinks by more than twice what the width does).
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from scipy.sparse import csr_matrix

_BITS = 22
"""Of a weight, after the point."""
_TILE = 32
"""Rows that are resized together, so that they stay in the processor's cache."""

Window = tuple[int, int, int, int]
"""(top, left, height, width)"""


def resize_image(
    image: np.ndarray, size: tuple[int, int], window: Window | None = None
) -> np.ndarray:
    """Resize [H, W, 3] uint8 to `size` (height, width) and cut out the window (default all).

    Returns: [h, w, 3] uint8; a view of the image where nothing is resized.
    """
    rows, columns = needed(image.shape[:2], size, window)
    return resize_window(image[rows, columns], image.shape[:2], size, window)


def needed(
    old: tuple[int, int], size: tuple[int, int], window: Window | None = None
) -> tuple[slice, slice]:
    """Rows and columns of an image of size `old` which the window of its resize is made of."""
    spans = []
    for old_side, new_side, first, count in _sides(old, size, window):
        if old_side == new_side:
            spans.append(slice(first, first + count))
        else:
            starts, stops, _ = _weights(old_side, new_side)
            spans.append(slice(int(starts[first]), int(stops[first + count - 1])))
    return spans[0], spans[1]


def resize_window(
    source: np.ndarray,
    old: tuple[int, int],
    size: tuple[int, int],
    window: Window | None = None,
) -> np.ndarray:
    """`resize_image`, given only the `needed` part of the image."""
    vertical, horizontal = _sides(old, size, window)
    if horizontal[0] != horizontal[1]:
        wide, source = source, np.empty((len(source), horizontal[3], 3), np.uint8)
        for first in range(0, len(source), _TILE):
            tile = slice(first, first + _TILE)
            source[tile] = cv2.transpose(_blend(cv2.transpose(wide[tile]), *horizontal))
    return source if vertical[0] == vertical[1] else _blend(source, *vertical)


def _sides(
    old: tuple[int, int], size: tuple[int, int], window: Window | None
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """(old, new, first, count) of rows and of columns."""
    top, left, height, width = window or (0, 0, *size)
    return (old[0], size[0], top, height), (old[1], size[1], left, width)


def _blend(source: np.ndarray, old: int, new: int, first: int, count: int) -> np.ndarray:
    """Rows `first` .. `first + count` of the resize along the first axis."""
    matrix = _matrix(old, new, first, count)
    blended = matrix @ source.reshape(len(source), -1).astype(np.int32)
    blended += 1 << (_BITS - 1)
    blended >>= _BITS
    return blended.astype(np.uint8).reshape(count, *source.shape[1:])


@lru_cache(maxsize=64)
def _matrix(old: int, new: int, first: int, count: int) -> csr_matrix:
    """[count, n] int32 weights of the n old cells that are needed."""
    starts, stops, weights = (source[first : first + count] for source in _weights(old, new))
    is_used = weights > 0
    indices = (starts[:, None] + np.arange(weights.shape[1]) - starts[0])[is_used]
    pointers = np.append(0, np.cumsum(is_used.sum(axis=1)))
    shape = count, int(stops[-1] - starts[0])
    return csr_matrix((weights[is_used], indices.astype(np.int32), pointers), shape)


@lru_cache(maxsize=256)
def _weights(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First old cell of each new one and the one after its last [new], weights [new, k] int32.

    A new cell blends the old ones around its centre with a triangle, as wide as the two cells
    beside it, or as two new cells where these are larger.
    """
    scale = old / new
    reach = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    starts = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    stops = np.minimum((centres + reach + 0.5).astype(np.int64), old)
    cells = starts[:, None] + np.arange((stops - starts).max())
    distance = np.abs((cells - centres[:, None] + 0.5) * (1.0 / reach))
    triangle = np.where(cells < stops[:, None], np.maximum(1.0 - distance, 0.0), 0.0)
    # One by one, as Pillow adds them; NumPy's sum may group them in another way.
    total = np.add.accumulate(triangle, axis=1)[:, -1:]
    weights = (0.5 + triangle / total * (1 << _BITS)).astype(np.int32)
    return starts, stops, weights
