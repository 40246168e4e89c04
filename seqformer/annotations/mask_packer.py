"""Masks and boxes of an annotation file, checked, and packed as training keeps them.

Masks are checked many at a time (`run_lengths.read_runs`): by one for each, a file of a hundred
thousand would take minutes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from seqformer.annotations.boxes import Entries, has_area, resolve, to_corners
from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.masks import Size, parse_mask
from seqformer.annotations.packed_masks import pack_segmentation
from seqformer.annotations.polygons import bounds, check_outline
from seqformer.annotations.reader import Notes
from seqformer.annotations.rules import get_box
from seqformer.annotations.run_lengths import read_runs

Presence = Literal["mask", "box"]
"""What decides whether an instance is in a frame: pixels of its mask, or, as published, a box of
some area, whatever the mask says."""
BATCH = 512
"""Masks that are checked together."""
_NO_BOX = (np.nan,) * 4


class MaskPacker:
    """Collects the frames of instances, and gives their boxes and packed masks."""

    def __init__(self, presence: Presence, keeps_polygons: bool = False) -> None:
        """
        Args:
            presence: see `Presence`.
            keeps_polygons: polygons stay polygons, and their bounds are taken for the box of the
                mask: still images have a million of them, most of which an epoch never draws.
        """
        self.presence, self.keeps_polygons = presence, keeps_polygons
        self._names: list[str] = []
        self._sizes: list[Size] = []
        self._lengths: list[int] = []
        self._boxes: list[tuple[float, ...]] = []
        self._packed: list[bytes] = []
        self._mask_boxes: list[tuple[float, ...] | None] = []
        self._waiting: list[tuple[int, str, Size, str]] = []  # entry, where, size, counts

    def add(self, where: str, masks: list[Any], boxes: Any, size: Size) -> None:
        """An instance: one entry per frame.

        Args:
            boxes: as the file has them; what is no list of as many counts as none.

        Raises: ValueError naming the frame of a mask that cannot be read.
        """
        self._names.append(where)
        self._sizes.append(size)
        self._lengths.append(len(masks))
        is_list = isinstance(boxes, list) and len(boxes) == len(masks)
        self._boxes += (
            [get_box(box) or _NO_BOX for box in boxes] if is_list else ([_NO_BOX] * len(masks))
        )
        for frame, mask in enumerate(masks):
            self._add_mask(f"{where}: the mask of frame {frame}", mask, size)
        if len(self._waiting) >= BATCH:
            self._check_waiting()

    def _add_mask(self, where: str, mask: Any, size: Size) -> None:
        self._packed.append(b"")
        self._mask_boxes.append(None)
        if mask is None:
            return
        try:
            if self.keeps_polygons and isinstance(mask, list) and mask:
                check_outline(mask, *size)
                x0, y0, x1, y1 = bounds(mask)
                self._mask_boxes[-1] = (x0, y0, x1 - x0, y1 - y0)
                self._packed[-1] = pack_segmentation(mask)
                return
            own, text = parse_mask(mask, size)
        except InvalidMaskError as error:
            raise ValueError(f"{where} {error}") from None
        if own is None:
            return
        if own != size:
            raise ValueError(
                f"{where} has size {list(own)} but its video has {list(size)} (height, width)"
            )
        self._waiting.append((len(self._packed) - 1, where, size, text))

    def _check_waiting(self) -> None:
        """Raises: ValueError naming the mask."""
        texts = [text for *_, text in self._waiting]
        try:
            runs = read_runs(texts, [size[0] * size[1] for _, _, size, _ in self._waiting])
        except InvalidMaskError as error:
            raise ValueError(f"{self._waiting[error.position][1]} {error}") from None
        areas = runs.areas
        rles = [{"size": size, "counts": text} for _, _, size, text in self._waiting]
        boxes = coco_mask.toBbox(rles).tolist() if rles else []
        for (entry, _, _, text), area, box in zip(self._waiting, areas, boxes, strict=True):
            if area or self.presence == "box":
                self._packed[entry] = pack_segmentation(text)
            if area:
                self._mask_boxes[entry] = tuple(box)
        self._waiting.clear()

    def finish(self, notes: Notes) -> tuple[list[np.ndarray], list[list[bytes]]]:
        """Of every instance, boxes [L, 4] (float32 corners inside the frame) and packed masks.

        Args:
            notes: gets what is to be said of boxes that do not agree with their masks.

        Raises: ValueError naming a mask that cannot be read.
        """
        self._check_waiting()
        starts = np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)]).astype(np.int64)
        sizes = np.repeat(np.array(self._sizes, np.int64).reshape(-1, 2), self._lengths, axis=0)
        listed = np.array(self._boxes, np.float64).reshape(-1, 4)
        if self.presence == "box":
            boxes = to_corners(listed, sizes)
        else:
            of_masks = np.array([box or (0.0,) * 4 for box in self._mask_boxes], np.float64)
            entries = Entries(listed, of_masks.reshape(-1, 4), sizes, starts)
            boxes = resolve(entries, notes, self._names)
        is_present = has_area(boxes).tolist()
        packed = self._packed
        if self.presence == "mask":
            packed = [
                mask if there else b"" for mask, there in zip(packed, is_present, strict=True)
            ]
        spans = list(pairwise(starts.tolist()))
        return [boxes[a:b] for a, b in spans], [packed[a:b] for a, b in spans]
