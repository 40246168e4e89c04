"""Masks of a clip that are decoded only at the pixels which its augmentation leaves.

Flip, crop and the resize of masks (to the nearest pixel) all pick rows and columns of the original
frame, so any sequence of them is two lists of indices. Instances that the augmentation loses are
never decoded at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.packed_masks import Segmentation, read_segmentations, sample_mask


class MaskSource(Protocol):
    """Masks of N instances in T frames of H x W pixels."""

    shape: tuple[int, int, int, int]
    """(N, T, H, W)"""

    def sample(self, instances: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Bool [n, T, h, w]: `masks[instances][..., rows[:, None], columns]`."""
        ...


@dataclass(frozen=True)
class ClipMasks:
    """Some rows and columns of the masks of some instances, in the order of the indices.

    Attributes:
        source: all masks.
        instances: [n] int64.
        rows: [h] int64.
        columns: [w] int64.
    """

    source: MaskSource
    instances: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, source: MaskSource) -> ClipMasks:
        """All of them."""
        num_instances, _, height, width = source.shape
        return cls(source, np.arange(num_instances), np.arange(height), np.arange(width))

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return len(self.rows), len(self.columns)

    def take(
        self, rows: np.ndarray | slice = slice(None), columns: np.ndarray | slice = slice(None)
    ) -> ClipMasks:
        """The masks at some of these rows and columns."""
        return replace(self, rows=self.rows[rows], columns=self.columns[columns])

    def keep(self, is_kept: np.ndarray) -> ClipMasks:
        """Those instances alone where bool [n] is True."""
        return replace(self, instances=self.instances[is_kept])

    def decode(self) -> np.ndarray:
        """Bool [n, T, h, w]. Raises: ValueError naming a broken annotation."""
        return self.source.sample(self.instances, self.rows, self.columns)


class DenseMasks:
    """Masks that are decoded already: T arrays [N, H, W] bool."""

    def __init__(self, frames: Sequence[np.ndarray]) -> None:
        self.frames = frames
        num_instances, height, width = frames[0].shape
        self.shape = (num_instances, len(frames), height, width)

    def sample(self, instances: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """See `MaskSource`."""
        picked = (frame[instances][:, rows[:, None], columns] for frame in self.frames)
        return np.stack(list(picked), axis=1)


class PackedMasks:
    """Masks as the annotation file has them.

    Args:
        segmentation: (instance, frame) -> its segmentation.
        describe: (instance, frame) -> where that is in the file, for messages.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        segmentation: Callable[[int, int], Segmentation],
        describe: Callable[[int, int], str],
    ) -> None:
        self.shape, self.segmentation, self.describe = shape, segmentation, describe

    def sample(self, instances: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """See `MaskSource`."""
        _, num_frames, height, width = self.shape
        masks = np.zeros((len(instances) * num_frames, len(rows), len(columns)), bool)
        places = [(instance, t) for instance in instances.tolist() for t in range(num_frames)]
        try:
            read = read_segmentations(
                [self.segmentation(instance, t) for instance, t in places], height, width
            )
        except InvalidMaskError as error:
            where = self.describe(*places[error.position])
            raise ValueError(f"{where}: the segmentation {error}") from None
        for runs, mask in zip(read, masks, strict=True):
            if runs is not None:
                sample_mask(*runs, height, rows, columns, mask)
        return masks.reshape(len(instances), num_frames, len(rows), len(columns))


class IdMapMasks:
    """Masks of a pseudo-video: those of the picture itself, and id maps of its warped copies.

    Args:
        still: [N, H, W] bool, where instances may overlap.
        id_maps: T entries [H, W], n + 1 where instance n is and 0 elsewhere; None is the picture.
    """

    def __init__(self, still: np.ndarray, id_maps: Sequence[np.ndarray | None]) -> None:
        self.still, self.id_maps = still, id_maps
        num_instances, height, width = still.shape
        self.shape = (num_instances, len(id_maps), height, width)

    def sample(self, instances: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """See `MaskSource`."""
        masks = np.empty((len(instances), len(self.id_maps), len(rows), len(columns)), bool)
        ids = (instances + 1)[:, None, None]
        for t, id_map in enumerate(self.id_maps):
            if id_map is None:
                masks[:, t] = self.still[instances][:, rows[:, None], columns]
            else:
                masks[:, t] = id_map[rows[:, None], columns] == ids
        return masks
