"""Photometric distortion, drawn for every frame on its own.

Order and numbers are the published ones: brightness; contrast, saturation and hue, or contrast
after them; channel order. A frame goes through in tiles of rows that stay in the processor's
cache, and one without saturation and hue through a table of 256 entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
BRIGHTNESS = 32.0
"""Largest shift in grey levels."""
CONTRAST = SATURATION = (0.5, 1.5)
"""Range of the factor."""
HUE = 18.0
"""Largest turn in degrees."""
STEP_PROB = 0.5
"""Of each of brightness, contrast, saturation, hue and channel order."""
CHANNEL_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_TILE_PIXELS = 40_000
"""Pixels whose colours are changed together, half a megabyte as floats."""


@dataclass(frozen=True)
class PhotometricDistortion:
    """What happens to the colours of one frame; None leaves that step out.

    Attributes:
        brightness: added to all channels.
        contrast: factor of all channels.
        contrast_first: whether contrast comes before saturation and hue, or after them.
        saturation: factor.
        hue: turn in degrees.
        channels: new order of the channels.
    """

    brightness: float | None = None
    contrast: float | None = None
    contrast_first: bool = True
    saturation: float | None = None
    hue: float | None = None
    channels: tuple[int, int, int] | None = None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> PhotometricDistortion:
        """Each step with probability `STEP_PROB`."""
        is_on = rng.random(5) < STEP_PROB
        brightness, contrast, saturation, hue = rng.uniform(
            (-BRIGHTNESS, CONTRAST[0], SATURATION[0], -HUE),
            (BRIGHTNESS, CONTRAST[1], SATURATION[1], HUE),
        ).tolist()
        contrast_first = bool(rng.random() < 0.5)
        channels = CHANNEL_ORDERS[rng.integers(len(CHANNEL_ORDERS))]
        return cls(
            brightness=brightness if is_on[0] else None,
            contrast=contrast if is_on[1] else None,
            contrast_first=contrast_first,
            saturation=saturation if is_on[2] else None,
            hue=hue if is_on[3] else None,
            channels=channels if is_on[4] else None,
        )

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """A changed copy of one frame [H, W, 3] uint8.

        parity: values are cut to integers and wrap around beyond 0..255, as the published cast of
        the float result does; nothing is clipped.
        """
        changed = np.empty_like(frame)
        if self.saturation is None and self.hue is None:
            table = np.arange(256, dtype=np.float32)[None]
            cv2.LUT(frame, wrapped(self._scaled(table, is_after=True)), dst=changed)
        else:
            rows = max(1, _TILE_PIXELS // frame.shape[1])
            for first in range(0, len(frame), rows):
                tile = frame[first : first + rows].astype(np.float32)
                tile = shift_saturation_and_hue(
                    self._scaled(tile, is_after=False),
                    1.0 if self.saturation is None else self.saturation,
                    self.hue or 0.0,
                )
                if self.contrast is not None and not self.contrast_first:
                    tile *= np.float32(self.contrast)
                changed[first : first + rows] = wrapped(tile)
        if self.channels is not None and self.channels != (0, 1, 2):
            return cv2.transform(changed, np.eye(3, dtype=np.float32)[list(self.channels)])
        return changed

    def _scaled(self, values: Floats, is_after: bool) -> Floats:
        """Brightness, and contrast if it is due, in place."""
        if self.brightness is not None:
            values += np.float32(self.brightness)
        if self.contrast is not None and (self.contrast_first or is_after):
            values *= np.float32(self.contrast)
        return values


def shift_saturation_and_hue(pixels: Floats, saturation: float, hue: float) -> Floats:
    """Scale the saturation and turn the hue in HSV space, in any range of values, unclipped.

    parity: the published code hands RGB to a conversion that expects BGR, so a positive `hue`
    turns the other way round (red becomes pink, not orange).

    Args:
        pixels: [H, W, 3] float32 RGB.
        saturation: factor; the product may exceed 1, which makes dark channels negative.
        hue: degrees, within one turn either way.
    """
    hsv: Floats = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV), np.float32)
    if hue:
        # The way back takes angles modulo a turn, but only positive ones.
        hsv[..., 0] += np.float32(hue % 360)
    if saturation != 1:
        hsv[..., 1] *= np.float32(saturation)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), np.float32)


def wrapped(values: np.ndarray) -> np.ndarray:
    """float32 cut to integers, modulo 256: uint8 of the same shape."""
    return values.astype(np.int32).astype(np.uint8)
