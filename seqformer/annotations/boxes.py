"""Whether the boxes of a file agree with its masks, and what is taken where they do not.

An instance is in a frame where its mask has pixels. A box that is missing, of no area or not of
four numbers beside a mask is made from the mask; boxes without a mask are left out. Boxes that are
not [x, y, width, height] at all, but corners or shares of the frame, are found out: as they stand
they do not lie on the masks, and read in another way they do. All arrays have one row per entry (a
frame of an instance) of the whole file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqformer.annotations.reader import Notes

SAME_IOU = 0.8
"""Mean overlap from which an instance's boxes are those of its masks in another reading..."""
GAIN = 0.2
"""...if it is so much larger than as they stand."""


@dataclass(frozen=True)
class Entries:
    """The boxes and masks of a file. E entries, A instances."""

    boxes: np.ndarray
    """[E, 4] float64 (x, y, width, height) as listed; NaN where there is no such box."""
    mask_boxes: np.ndarray
    """[E, 4] float64, of the masks; zeros where there is none."""
    sizes: np.ndarray
    """[E, 2] (height, width) of the frames."""
    starts: np.ndarray
    """[A + 1] the first entry of every instance, and E."""


def resolve(entries: Entries, notes: Notes, describe: list[str]) -> np.ndarray:
    """The boxes to use, [E, 4] float32 corners inside the frame; zeros where the instance is not.

    Args:
        notes: gets what is said of them.
        describe: [A] what to call an instance.
    """
    listed = to_corners(entries.boxes, entries.sizes)
    of_masks = to_corners(entries.mask_boxes, entries.sizes)
    has_mask, is_usable = has_area(of_masks), has_area(listed)
    instance = np.repeat(np.arange(len(describe)), np.diff(entries.starts))

    def tell(what: str, where: np.ndarray) -> None:
        if where.any():
            first = int(where.argmax())
            frame = first - int(entries.starts[instance[first]])
            notes.add(what, f"{describe[instance[first]]}, frame {frame}", int(where.sum()))

    tell(
        "masks without a usable box, which is made from the mask",
        has_mask & ~is_usable,
    )
    tell("boxes without a mask, which are left out", is_usable & ~has_mask)
    is_misread = np.zeros(len(listed), bool)
    for name, other in readings(entries):
        better = _read_better(listed, other, of_masks, has_mask & is_usable, entries.starts)
        new = better[instance] & ~is_misread & has_mask
        tell(f"boxes that are {name}, as the masks show; they are made from the masks", new)
        is_misread |= new
    chosen = np.where((is_usable & ~is_misread)[:, None], listed, of_masks)
    return np.where(has_mask[:, None], chosen, 0).astype(np.float32)


def readings(entries: Entries) -> list[tuple[str, np.ndarray]]:
    """Other ways to read the listed numbers: name, and corners [E, 4] inside the frame."""
    x, y, a, b = entries.boxes.T
    height, width = entries.sizes.T
    shares = np.stack([x * width, y * height, a * width, b * height], axis=1)
    forms = {
        "corners (x0, y0, x1, y1), not x, y, width, height": np.stack([x, y, a - x, b - y], axis=1),
        "shares of the frame, not pixels": shares,
        "corners as shares of the frame": np.stack(
            [shares[:, 0], shares[:, 1], shares[:, 2] - shares[:, 0], shares[:, 3] - shares[:, 1]],
            axis=1,
        ),
        "centres and sizes as shares of the frame": np.stack(
            [
                shares[:, 0] - shares[:, 2] / 2,
                shares[:, 1] - shares[:, 3] / 2,
                shares[:, 2],
                shares[:, 3],
            ],
            axis=1,
        ),
        "centres and sizes, not corner and size": np.stack([x - a / 2, y - b / 2, a, b], axis=1),
    }
    return [(name, to_corners(form, entries.sizes)) for name, form in forms.items()]


def to_corners(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[E, 4] (x, y, width, height) -> corners inside the frame, float32; NaN becomes zeros."""
    corners = np.nan_to_num(boxes, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)
    corners[:, 2:] += corners[:, :2]
    height, width = sizes.T
    return np.clip(corners, 0, np.stack([width, height, width, height], axis=1)).astype(np.float32)


def has_area(corners: np.ndarray) -> np.ndarray:
    """Boxes [..., 4] -> [...] bool."""
    return np.all(corners[..., 2:] > corners[..., :2], axis=-1)


def _read_better(
    listed: np.ndarray,
    other: np.ndarray,
    of_masks: np.ndarray,
    is_compared: np.ndarray,
    starts: np.ndarray,
) -> np.ndarray:
    """[A] bool: an instance's boxes lie on its masks in another reading, and much worse in the
    usual one."""
    compared, usual, better = (
        _sum(values * is_compared, starts)
        for values in (np.ones(len(listed)), _iou(listed, of_masks), _iou(other, of_masks))
    )
    return (compared > 0) & (better >= SAME_IOU * compared) & (better - usual >= GAIN * compared)


def _sum(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0.0], np.cumsum(values)])
    return total[starts[1:]] - total[starts[:-1]]


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[E] IoU of boxes in corners."""
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    common = np.maximum(sides, 0).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in (one, other)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-9)
