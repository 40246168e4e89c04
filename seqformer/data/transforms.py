"""Training augmentation of a whole clip: one geometry for all frames, colours drawn per frame.

Order and numbers follow the published recipe (`AugmentConfig`): flip, colours, then either one
resize or resize, crop, resize; last, boxes that lost their area are voided and instances without
any box are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seqformer.boxes import xyxy_to_cxcywh
from seqformer.config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig
from seqformer.structures import ClipTargets

BRIGHTNESS = 32.0
"""Largest shift in grey levels."""
CONTRAST = SATURATION = (0.5, 1.5)
"""Range of the factor."""
HUE = 18.0
"""Largest turn in degrees."""
COLOUR_PROB = 0.5
"""Of each of brightness, contrast, saturation, hue and channel order."""
CHANNEL_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_ROWS = 32
"""Rows whose colours are turned together, so that they stay in the processor's cache."""
MIN_BOX = 1e-6
"""Lower bound of every box coordinate in targets; an absent box is four times this."""


@dataclass(frozen=True)
class Clip:
    """A clip during augmentation.

    Attributes:
        frames: [T, H, W, 3] uint8 RGB.
        labels: [N] int64, output index of the class.
        boxes_xyxy: [N, T, 4] float32 in pixels; without area where absent.
        masks: [N, T, H, W] bool.
    """

    frames: np.ndarray
    labels: np.ndarray
    boxes_xyxy: np.ndarray
    masks: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.frames.shape[1:3]


def augment(clip: Clip, config: AugmentConfig, rng: np.random.Generator) -> Clip:
    """The whole recipe; the result may have no instance left."""
    if rng.random() < config.flip_prob:
        clip = flip(clip)
    if config.photometric:
        clip = replace(clip, frames=distort_colours(clip.frames, rng))
    if rng.random() < config.crop_prob:
        clip = resize(clip, *resized_size(*clip.size, _choose(config.crop_resize_short_sides, rng)))
        height, width = (_crop_side(side, config, rng) for side in clip.size)
        top = int(rng.integers(clip.size[0] - height + 1))
        left = int(rng.integers(clip.size[1] - width + 1))
        clip = crop(clip, top, left, height, width)
    short_side = _choose(config.short_sides, rng)
    clip = resize(clip, *resized_size(*clip.size, short_side, config.max_long_side))
    return drop_lost(clip)


def flip(clip: Clip) -> Clip:
    """Mirror left and right."""
    boxes = clip.boxes_xyxy.copy()
    boxes[..., [0, 2]] = clip.size[1] - boxes[..., [2, 0]]
    return replace(
        clip, frames=clip.frames[:, :, ::-1], boxes_xyxy=boxes, masks=clip.masks[..., ::-1]
    )


def resized_size(
    height: int, width: int, short_side: int, max_long_side: int | None = None
) -> tuple[int, int]:
    """(height, width) after giving the shorter side `short_side` pixels.

    Where the longer side would exceed `max_long_side`, both shrink (the published rule: the shorter
    side is rounded, the longer one cut to an integer, so it can end just above the bound).
    """
    short, long = min(height, width), max(height, width)
    if max_long_side is not None and long / short * short_side > max_long_side:
        short_side = max(round(max_long_side * short / long), 1)
    long_side = int(short_side * long / short)
    return (short_side, long_side) if height <= width else (long_side, short_side)


def resize(clip: Clip, height: int, width: int) -> Clip:
    """Resize frames bilinearly with antialiasing and masks to the nearest pixel; scale boxes."""
    old_height, old_width = clip.size
    if (height, width) == (old_height, old_width):
        return clip
    frames = np.empty((len(clip.frames), height, width, 3), np.uint8)
    for t, frame in enumerate(clip.frames):
        image = Image.fromarray(np.ascontiguousarray(frame))
        frames[t] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    rows, columns = _nearest(old_height, height), _nearest(old_width, width)
    scale = np.array([width / old_width, height / old_height] * 2, np.float32)
    return replace(
        clip,
        frames=frames,
        boxes_xyxy=clip.boxes_xyxy * scale,
        masks=clip.masks[..., rows[:, None], columns],
    )


def crop(clip: Clip, top: int, left: int, height: int, width: int) -> Clip:
    """Cut out a window; boxes are clipped to it."""
    rows, columns = slice(top, top + height), slice(left, left + width)
    corner = np.array([left, top, left, top], np.float32)
    limit = np.array([width, height, width, height], np.float32)
    return replace(
        clip,
        frames=clip.frames[:, rows, columns],
        boxes_xyxy=np.clip(clip.boxes_xyxy - corner, 0, limit),
        masks=clip.masks[..., rows, columns],
    )


def drop_lost(clip: Clip) -> Clip:
    """Void boxes without area, and remove instances that have no box in any frame.

    parity: an instance with one box left keeps its masks of all frames, also where the box is void
    (published: floor(box / 1000), which is 0 in frames below 1000 pixels).
    """
    is_valid = (clip.boxes_xyxy[..., 2:] > clip.boxes_xyxy[..., :2]).all(axis=-1)  # [N, T]
    keep = is_valid.any(axis=1)
    return replace(
        clip,
        labels=clip.labels[keep],
        boxes_xyxy=np.where(is_valid[..., None], clip.boxes_xyxy, 0)[keep],
        masks=clip.masks[keep],
    )


def to_tensors(clip: Clip) -> tuple[Tensor, ClipTargets]:
    """Normalised images [T, 3, H, W] float32 and the targets of the clip."""
    height, width = clip.size
    frames = torch.from_numpy(np.ascontiguousarray(clip.frames.transpose(0, 3, 1, 2)))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    images = frames.float().div_(255).sub_(mean).div_(std)
    boxes = xyxy_to_cxcywh(torch.from_numpy(clip.boxes_xyxy.astype(np.float32)))
    boxes = boxes / torch.tensor([width, height, width, height], dtype=torch.float32)
    return images, ClipTargets(
        labels=torch.from_numpy(clip.labels.astype(np.int64)),
        boxes=boxes.clamp(min=MIN_BOX),
        masks=torch.from_numpy(np.ascontiguousarray(clip.masks)),
        size=(height, width),
    )


@dataclass(frozen=True)
class ColourChange:
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
    def draw(cls, rng: np.random.Generator) -> ColourChange:
        """Each step with probability `COLOUR_PROB`."""
        is_on = rng.random(5) < COLOUR_PROB
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
        planes = np.ascontiguousarray(frame.transpose(2, 0, 1), np.float32)
        if self.brightness is not None:
            planes += np.float32(self.brightness)
        if self.contrast is not None and self.contrast_first:
            planes *= np.float32(self.contrast)
        if self.saturation is not None or self.hue is not None:
            saturation = 1.0 if self.saturation is None else self.saturation
            planes = turn_colours(planes, saturation, self.hue or 0.0)
        if self.contrast is not None and not self.contrast_first:
            planes *= np.float32(self.contrast)
        if self.channels is not None:
            planes = planes[list(self.channels)]
        return np.ascontiguousarray(planes.astype(np.int32).astype(np.uint8).transpose(1, 2, 0))


def distort_colours(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the colours of every frame on its own: [T, H, W, 3] uint8 -> the same."""
    return np.stack([ColourChange.draw(rng).apply(frame) for frame in frames])


def turn_colours(planes: np.ndarray, saturation: float, hue: float) -> np.ndarray:
    """Scale the saturation and turn the hue in HSV space, in any range of values, unclipped.

    parity: the published code hands RGB to a conversion that expects BGR, so a positive `hue`
    turns the other way round (red becomes pink, not orange).

    Args:
        planes: [3, H, W] float32 RGB.
        saturation: factor; the product may exceed 1, which makes dark channels negative.
        hue: degrees, within one turn either way.
    """
    changed = np.empty_like(planes)
    for first in range(0, planes.shape[1], _ROWS):
        rows = slice(first, first + _ROWS)
        blue, green, red = planes[:, rows]  # parity: see above
        value = np.maximum(np.maximum(blue, green), red)
        spread = value - np.minimum(np.minimum(blue, green), red)
        inverse = np.float32(1) / (spread + np.finfo(np.float32).eps)
        angle = np.where(
            value == red,
            (green - blue) * inverse,
            np.where(value == green, (blue - red) * inverse + 2, (red - green) * inverse + 4),
        )  # in sixths of a turn
        angle += np.float32(hue / 60)
        angle += 6 * (angle < 0).view(np.int8)
        angle -= 6 * (angle >= 6).view(np.int8)
        # Saturation is spread / |value|; colours hold only its product with value.
        depth = spread * np.sign(value) * np.float32(saturation)
        value -= depth
        for plane, share in (
            (0, 2 - np.abs(angle - 4)),
            (1, 2 - np.abs(angle - 2)),
            (2, np.abs(angle - 3) - 1),
        ):
            changed[plane, rows] = value + depth * np.clip(share, 0, 1)
    return changed


def _nearest(old: int, new: int) -> np.ndarray:
    """For each of `new` cells the index of the cell it takes, as PyTorch's nearest resize does."""
    index = np.floor(np.arange(new, dtype=np.float32) * np.float32(old / new)).astype(np.int64)
    return np.minimum(index, old - 1)


def _choose(values: tuple[int, ...], rng: np.random.Generator) -> int:
    return values[int(rng.integers(len(values)))]


def _crop_side(side: int, config: AugmentConfig, rng: np.random.Generator) -> int:
    largest = min(side, config.crop_max)
    return int(rng.integers(min(config.crop_min, largest), largest + 1))
