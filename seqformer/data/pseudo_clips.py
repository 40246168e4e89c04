"""Pseudo-videos: T frames from one still image, by colour, perspective, rotation, shift and blur.

The frames are the image itself and T - 1 changed copies in random order, with the ranges of the
published recipe. The published code draws them with imgaug, which is no longer maintained and does
not run on NumPy 2; the same steps are OpenCV's here, each taken from what imgaug documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from seqformer.data.clip_masks import IdMapMasks

BRIGHTNESS = 40
"""Largest shift of all channels in grey levels."""
HUE_SATURATION = 5
"""Largest shift of the saturation in grey levels, and of the hue in 255ths of a turn."""
PERSPECTIVE = 0.08
"""Deviation of the normal distribution of how far corners move inwards, in widths and heights."""
ROTATION = 20.0
"""Largest turn in degrees."""
SHIFT = 0.1
"""Largest shift as a share of the width and the height."""
BLUR_PROB = 0.25
"""Probability of motion blur."""
BLUR_SIZES = (9, 11)
"""Sides of the blur kernel in pixels."""


@dataclass(frozen=True)
class StillChange:
    """What makes a frame out of a still image; None leaves that step out.

    Attributes:
        brightness: added to all channels, clipped to 0..255.
        hue_saturation: added to saturation (clipped) and, in 255ths of a turn, to the hue.
        corners: [4, 2] how far the corners move inwards, shares of width and height, from the top
            left one clockwise. The quadrangle between them becomes the whole frame.
        rotation: degrees, clockwise as the image is seen, about its centre.
        shift: of width and height, to the right and down.
        blur: (side, angle in degrees, direction in -1..1) of the motion blur.
    """

    brightness: int | None = None
    hue_saturation: int | None = None
    corners: np.ndarray | None = None
    rotation: float = 0.0
    shift: float = 0.0
    blur: tuple[int, float, float] | None = None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> StillChange:
        """One or both of the colour steps, every geometric one, and sometimes blur."""
        both = rng.random() < 0.5
        either = rng.random() < 0.5
        brightness = int(rng.integers(-BRIGHTNESS, BRIGHTNESS + 1))
        hue_saturation = int(rng.integers(-HUE_SATURATION, HUE_SATURATION + 1))
        corners = np.minimum(np.abs(rng.normal(0.0, PERSPECTIVE, (4, 2))), 0.45)
        rotation = float(rng.uniform(-ROTATION, ROTATION))
        shift = float(rng.uniform(-SHIFT, SHIFT))
        is_blurred = rng.random() < BLUR_PROB
        side = BLUR_SIZES[int(rng.integers(len(BLUR_SIZES)))]
        angle, direction = float(rng.uniform(0, 360)), float(rng.uniform(-1, 1))
        return cls(
            brightness=brightness if both or either else None,
            hue_saturation=hue_saturation if both or not either else None,
            corners=corners,
            rotation=rotation,
            shift=shift,
            blur=(side, angle, direction) if is_blurred else None,
        )

    def apply(self, image: np.ndarray, id_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A changed image [H, W, 3] uint8 and its id map [H, W], warped alike; black outside."""
        size = image.shape[1::-1]  # OpenCV's order
        image = self.change_colours(image)
        if self.corners is not None:
            matrix = perspective_matrix(self.corners, *size)
            image = cv2.warpPerspective(image, matrix, size, flags=cv2.INTER_LINEAR)
            id_map = cv2.warpPerspective(id_map, matrix, size, flags=cv2.INTER_NEAREST)
        if self.rotation or self.shift:
            matrix = affine_matrix(self.rotation, self.shift, *size)
            image = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR)
            id_map = cv2.warpAffine(id_map, matrix, size, flags=cv2.INTER_NEAREST)
        if self.blur is not None:
            image = cv2.filter2D(image, -1, blur_kernel(*self.blur))
        return image, id_map

    def change_colours(self, image: np.ndarray) -> np.ndarray:
        """Brightness, then hue and saturation. [H, W, 3] uint8 RGB -> the same."""
        grey = np.arange(256)
        if self.brightness is not None:
            image = cv2.LUT(image, np.clip(grey + self.brightness, 0, 255).astype(np.uint8))
        if self.hue_saturation is not None:
            steps = int(self.hue_saturation / 255 * 180)  # OpenCV's hue: 180 steps a turn
            table = np.stack(
                [(grey + steps) % 180, np.clip(grey + self.hue_saturation, 0, 255), grey], axis=-1
            )
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            image = cv2.cvtColor(cv2.LUT(hsv, table.astype(np.uint8)[None]), cv2.COLOR_HSV2RGB)
        return image


def pseudo_video(
    image: np.ndarray, masks: np.ndarray, num_frames: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray, IdMapMasks]:
    """A still image -> T frames in random order.

    parity: in changed copies an instance owns what no later one covers, because masks are warped
    through one id map; in the image itself they keep their overlaps.

    Args:
        image: [H, W, 3] uint8 RGB.
        masks: [N, H, W] bool.

    Returns: T frames [H, W, 3] uint8; boxes_xyxy [N, T, 4] float32; masks.
    """
    id_map = condense(masks)
    changed = [StillChange.draw(rng).apply(image, id_map) for _ in range(num_frames - 1)]
    order = rng.permutation(num_frames).tolist()
    frames = [[image, *(frame for frame, _ in changed)][i] for i in order]
    id_maps = [[None, *(ids for _, ids in changed)][i] for i in order]
    boxes = np.zeros((len(masks), num_frames, 4), np.float32)
    for t, ids in enumerate(id_maps):
        boxes[:, t] = boxes_of_masks(masks) if ids is None else boxes_of_ids(ids, len(masks))
    return frames, boxes, IdMapMasks(masks, id_maps)


def condense(masks: np.ndarray) -> np.ndarray:
    """[N, H, W] bool -> id map [H, W]: n + 1 where instance n is, the last one where several are.

    uint8, or uint16 where there are more than 255 instances.
    """
    id_map = np.zeros(masks.shape[1:], np.uint8 if len(masks) < 256 else np.uint16)
    for number, mask in enumerate(masks, start=1):
        id_map[mask] = number
    return id_map


def boxes_of_masks(masks: np.ndarray) -> np.ndarray:
    """[N, 4] float32: the smallest and largest column and row of each mask [N, H, W].

    parity: the indices of pixels, so that a box of one pixel has no area; zeros for empty masks.
    """
    ends = []
    for occupied in (np.any(masks, axis=1), np.any(masks, axis=2)):  # columns, rows
        first = occupied.argmax(axis=1)
        last = occupied.shape[1] - 1 - occupied[:, ::-1].argmax(axis=1)
        ends.append(np.where(np.any(occupied, axis=1), [first, last], 0))
    (x0, x1), (y0, y1) = ends
    return np.stack([x0, y0, x1, y1], axis=-1).astype(np.float32)


def boxes_of_ids(id_map: np.ndarray, num_instances: int) -> np.ndarray:
    """`boxes_of_masks` of the N masks of an id map [H, W]."""
    rows, columns = np.nonzero(id_map)
    ids = id_map[rows, columns].astype(np.intp) - 1
    boxes = np.zeros((num_instances, 4), np.float32)
    for column, values in ((0, columns), (1, rows)):
        low = np.full(num_instances, np.iinfo(np.int64).max)
        high = np.full(num_instances, -1)
        np.minimum.at(low, ids, values)
        np.maximum.at(high, ids, values)
        is_seen = high >= 0
        boxes[is_seen, column], boxes[is_seen, column + 2] = low[is_seen], high[is_seen]
    return boxes


def perspective_matrix(corners: np.ndarray, width: int, height: int) -> np.ndarray:
    """[3, 3] homography from the quadrangle of `StillChange.corners` to the whole frame."""
    frame = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32) * [width, height]
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    inner = frame + corners * inwards * [width, height]
    return cv2.getPerspectiveTransform(inner.astype(np.float32), frame.astype(np.float32))


def affine_matrix(rotation: float, shift: float, width: int, height: int) -> np.ndarray:
    """[2, 3] turn about the centre of the pixels, then a shift by whole pixels."""
    x, y = (width - 1) / 2, (height - 1) / 2
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    return np.array(
        [
            [cos, -sin, x - cos * x + sin * y + round(shift * width)],
            [sin, cos, y - sin * x - cos * y + round(shift * height)],
        ]
    )


def blur_kernel(side: int, angle: float, direction: float) -> np.ndarray:
    """[side, side] float32, sum 1: a line through the middle, turned by `angle` degrees.

    Along the line weights go evenly from one end to the other: equal for direction 0, from
    nothing to all for -1 and 1.
    """
    kernel = np.zeros((side, side), np.float32)
    start = (direction + 1) / 2
    kernel[:, side // 2] = np.linspace(start, 1 - start, side)
    turned = cv2.warpAffine(kernel, affine_matrix(angle, 0.0, side, side), (side, side))
    return turned / turned.sum()
