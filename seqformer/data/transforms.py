"""Training augmentation of a whole clip: one geometry for all frames, distortion drawn per frame.

Order and numbers follow the published recipe (`AugmentConfig`): flip, photometric distortion, then
either one resize or resize, crop, resize; last, boxes that lost their area are voided and instances
without any box are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from seqformer.annotations.boxes import has_area
from seqformer.boxes import xyxy_to_cxcywh
from seqformer.config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig
from seqformer.data.clip_masks import ClipMasks
from seqformer.data.photometric import PhotometricDistortion
from seqformer.data.resize import Window, needed, resize_image, resize_window
from seqformer.structures import ClipTargets

MIN_BOX = 1e-6
"""Lower bound of every box coordinate in targets; an absent box is four times this."""
_GREY = torch.arange(256) / 255
_NORMALISED = [
    ((_GREY - mean) / std).numpy() for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)
]
"""What each of the 256 values of a channel becomes."""


@dataclass(frozen=True)
class Clip:
    """A clip during augmentation.

    Attributes:
        frames: T times [H, W, 3] uint8 RGB.
        labels: [N] int64, output index of the class.
        boxes_xyxy: [N, T, 4] float32 in pixels; without area where absent.
        masks: of N instances in T frames of H x W pixels, not decoded.
    """

    frames: Sequence[np.ndarray]
    labels: np.ndarray
    boxes_xyxy: np.ndarray
    masks: ClipMasks

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.masks.size


def augment(clip: Clip, config: AugmentConfig, rng: np.random.Generator) -> Clip:
    """The whole recipe; the result may have no instance left."""
    if rng.random() < config.flip_prob:
        clip = flip(clip)
    distortions = (
        [PhotometricDistortion.draw(rng) for _ in clip.frames] if config.photometric else None
    )
    if rng.random() < config.crop_prob:
        size = resized_size(*clip.size, _choose(config.crop_resize_short_sides, rng))
        height, width = (_crop_side(side, config, rng) for side in size)
        top = int(rng.integers(size[0] - height + 1))
        left = int(rng.integers(size[1] - width + 1))
        clip = resize_and_crop(clip, size, (top, left, height, width), distortions)
    elif distortions is not None:
        changed = [c.apply(f) for c, f in zip(distortions, clip.frames, strict=True)]
        clip = replace(clip, frames=changed)
    short_side = _choose(config.short_sides, rng)
    clip = resize(clip, *resized_size(*clip.size, short_side, config.max_long_side))
    return drop_lost(clip)


def flip(clip: Clip) -> Clip:
    """Mirror left and right."""
    boxes = clip.boxes_xyxy.copy()
    boxes[..., [0, 2]] = clip.size[1] - boxes[..., [2, 0]]
    return replace(
        clip,
        frames=[cv2.flip(frame, 1) for frame in clip.frames],
        boxes_xyxy=boxes,
        masks=clip.masks.take(columns=slice(None, None, -1)),
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
    if (height, width) == clip.size:
        return clip
    frames = [resize_image(frame, (height, width)) for frame in clip.frames]
    return replace(_resize_targets(clip, height, width), frames=frames)


def crop(clip: Clip, top: int, left: int, height: int, width: int) -> Clip:
    """Cut out a window; boxes are clipped to it."""
    rows, columns = slice(top, top + height), slice(left, left + width)
    frames = [frame[rows, columns] for frame in clip.frames]
    return replace(_crop_targets(clip, top, left, height, width), frames=frames)


def resize_and_crop(
    clip: Clip,
    size: tuple[int, int],
    window: Window,
    distortions: Sequence[PhotometricDistortion] | None = None,
) -> Clip:
    """`crop(resize(clip, *size), *window)` after the distortions, only where the window looks.

    Args:
        size: (height, width) after the resize.
        distortions: one per frame.
    """
    source = needed(clip.size, size, window)
    frames = [frame[source] for frame in clip.frames]
    if distortions is not None:
        frames = [
            distortion.apply(frame) for distortion, frame in zip(distortions, frames, strict=True)
        ]
    resized = [resize_window(frame, clip.size, size, window) for frame in frames]
    clip = _crop_targets(_resize_targets(clip, *size), *window)
    return replace(clip, frames=resized)


def _resize_targets(clip: Clip, height: int, width: int) -> Clip:
    old_height, old_width = clip.masks.size
    scale = np.array([width / old_width, height / old_height] * 2, np.float32)
    return replace(
        clip,
        boxes_xyxy=clip.boxes_xyxy * scale,
        masks=clip.masks.take(_nearest(old_height, height), _nearest(old_width, width)),
    )


def _crop_targets(clip: Clip, top: int, left: int, height: int, width: int) -> Clip:
    corner = np.array([left, top, left, top], np.float32)
    limit = np.array([width, height, width, height], np.float32)
    return replace(
        clip,
        boxes_xyxy=np.clip(clip.boxes_xyxy - corner, 0, limit),
        masks=clip.masks.take(slice(top, top + height), slice(left, left + width)),
    )


def drop_lost(clip: Clip) -> Clip:
    """Void boxes without area, and remove instances that have no box in any frame.

    parity: an instance with one box left keeps its masks of all frames, also where the box is void
    (published: floor(box / 1000), which is 0 in frames below 1000 pixels).
    """
    is_valid = has_area(clip.boxes_xyxy)  # [N, T]
    keep = np.any(is_valid, axis=1)
    return replace(
        clip,
        labels=clip.labels[keep],
        boxes_xyxy=np.where(is_valid[..., None], clip.boxes_xyxy, 0)[keep],
        masks=clip.masks.keep(keep),
    )


def to_tensors(clip: Clip) -> tuple[Tensor, ClipTargets]:
    """Normalised images [T, 3, H, W] float32 and the targets of the clip, masks decoded.

    Raises: ValueError naming an annotation whose mask is broken.
    """
    height, width = clip.size
    images = torch.empty(len(clip.frames), 3, height, width)
    for image, frame in zip(images.numpy(), clip.frames, strict=True):
        for plane, pixels, table in zip(image, cv2.split(frame), _NORMALISED, strict=True):
            cv2.LUT(pixels, table, dst=plane)
    boxes = xyxy_to_cxcywh(torch.from_numpy(clip.boxes_xyxy.astype(np.float32)))
    boxes = boxes / torch.tensor([width, height, width, height], dtype=torch.float32)
    return images, ClipTargets(
        labels=torch.from_numpy(clip.labels.astype(np.int64)),
        boxes=boxes.clamp(min=MIN_BOX),
        masks=torch.from_numpy(clip.masks.decode()),
        size=(height, width),
    )


def _nearest(old: int, new: int) -> np.ndarray:
    """For each of `new` cells the index of the cell it takes, as PyTorch's nearest resize does."""
    index = np.floor(np.arange(new, dtype=np.float32) * np.float32(old / new)).astype(np.int64)
    return np.minimum(index, old - 1)


def _choose(values: tuple[int, ...], rng: np.random.Generator) -> int:
    return values[int(rng.integers(len(values)))]


def _crop_side(side: int, config: AugmentConfig, rng: np.random.Generator) -> int:
    largest = min(side, config.crop_max)
    return int(rng.integers(min(config.crop_min, largest), largest + 1))
