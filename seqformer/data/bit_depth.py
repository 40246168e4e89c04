"""Pictures of more than 8 bits: one scale for all frames of a video.

A program writes 10, 12 or 14 bits into numbers of 16, and no file says so. So the range of the
values decides, and where it was taken from one frame, the brightness of a video would jump from
frame to frame. The first such frame of a video has all of its frames looked at, once a process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits of whole numbers that cameras and programs write into wider ones."""
_MOST_BITS = 32
_VIDEOS = 1024
"""Ranges that a process remembers."""


@dataclass(frozen=True)
class Range:
    """Of the values of one or more pictures.

    Attributes:
        largest: value.
        is_fractional: whether one of them is no whole number.
    """

    largest: float = 0.0
    is_fractional: bool = False

    @classmethod
    def of(cls, values: np.ndarray) -> Range:
        """Raises: ValueError for negative and non-finite numbers, and those beyond 32 bits."""
        largest = float(values.max(initial=0))
        if not values.min(initial=0) >= 0 or not largest < 2**_MOST_BITS:
            raise ValueError("it has values that are negative, no numbers or of more than 32 bits")
        is_real = values.dtype.kind == "f"
        return cls(largest, is_real and bool((values != np.floor(values)).any()))

    def __or__(self, other: Range) -> Range:
        return Range(max(self.largest, other.largest), self.is_fractional or other.is_fractional)

    def to_bytes(self, values: np.ndarray) -> np.ndarray:
        """Values of this range -> uint8 of the same shape.

        Whole numbers are scaled by the smallest usual depth that holds the largest one (8, 10, 12,
        14 or 16 bits, from there on any), others by 1 or the smallest 2**n - 1 that does.
        """
        if values.dtype.kind == "f" and (self.is_fractional or self.largest <= 1):
            top = 1.0 if self.largest <= 1 else 2.0 ** math.ceil(math.log2(self.largest + 1)) - 1
            return np.round(values * (255 / top)).clip(0, 255).astype(np.uint8)
        bits = next((d for d in _DEPTHS if self.largest < 2**d), int(self.largest).bit_length())
        return (values.astype(np.int64) >> (bits - 8)).clip(0, 255).astype(np.uint8)


def common_range(own: Range, frames: Sequence[Path], read: Callable[[Path], Range]) -> Range:
    """The range of all frames of a video, one of which has the range `own`.

    Args:
        frames: paths of all of them; empty for a picture that stands alone.
        read: gives the range of one.

    A frame that cannot be read does not count: its own turn says why.
    """
    return own | _range_of(tuple(frames), read) if frames else own


@lru_cache(maxsize=_VIDEOS)
def _range_of(frames: tuple[Path, ...], read: Callable[[Path], Range]) -> Range:
    found = Range()
    for path in frames:
        with suppress(ValueError, OSError):
            found |= read(path)
    return found
