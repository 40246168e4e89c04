"""From a decoded frame to the network's input size. Needs no torch: decoding workers start fast."""

from __future__ import annotations

import numpy as np
from PIL import Image

MAX_NETWORK_PIXELS = 2**24
"""Of a resized frame: sixty times a 360p one. Only a frame of absurd shape gets there."""


def check_frame(frame: np.ndarray, index: int) -> np.ndarray:
    """The frame as an array. Raises: ValueError naming the frame when it is not uint8 RGB."""
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(
            f"frame {index} must be uint8 RGB [height, width, 3], got {frame.dtype} "
            f"{list(frame.shape)}"
        )
    return frame


def network_size(
    height: int, width: int, short_side: int, max_long_side: int = 0
) -> tuple[int, int]:
    """(height, width) after resizing: the shorter side has `short_side` pixels, the longer is
    rounded down. Where that would exceed `max_long_side` (0: no bound), both shrink."""
    short, long = min(height, width), max(height, width)
    if max_long_side and long / short * short_side > max_long_side:
        short_side = max(round(max_long_side * short / long), 1)
    if height < width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def resize_frame(frame: np.ndarray, short_side: int, max_long_side: int = 0) -> np.ndarray:
    """[h0, w0, 3] uint8 -> `network_size`, by PIL's bilinear filter (it averages when it shrinks).

    Raises: ValueError for a frame so long and thin that the result would not fit into memory.
    """
    height, width = network_size(frame.shape[0], frame.shape[1], short_side, max_long_side)
    if height * width > MAX_NETWORK_PIXELS:
        raise ValueError(
            f"a frame of {frame.shape[1]}x{frame.shape[0]} pixels would be enlarged to "
            f"{width}x{height}; cut it to a usual shape or give a smaller --short-side"
        )
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))


class FrameSizes:
    """Sees to it that the frames of a video have one size after resizing.

    parity: masks take the size of the *last* frame; it matters only when frames differ in size but
    not after resizing (test_predictor.py::test_masks_have_the_size_of_the_last_frame).

    Attributes:
        last: (height, width) of the last frame, before resizing; (0, 0) before the first one.
        network: (height, width) of all frames, after resizing.
    """

    def __init__(self) -> None:
        self.last = self.network = (0, 0)
        self._count = 0

    def see(self, original: tuple[int, int], resized: tuple[int, int]) -> None:
        """Count a frame. Raises: ValueError when its shape is not that of the first."""
        if self._count and resized != self.network:
            raise ValueError(
                f"frame {self._count} is {original[1]}x{original[0]} pixels, of another shape than "
                "the first; all frames of a video must have the same size"
            )
        self.last, self.network = original, resized
        self._count += 1
