"""Masks made small for a page: run lengths on a coarser grid, each distinct track once.

A pixel of the grid has the value of the pixel of the frame nearest to its centre. Where a run of
the mask ends on the grid follows from where it ends in the frame, so that no pixel is unrolled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from seqformer.annotations.masks import Size
from seqformer.annotations.run_lengths import compress_runs
from seqformer.evaluation.track_iou import Track

MAX_SIDE = 448
"""Longer side of the grid in pixels; smaller videos keep theirs."""


def grid_of(canvas: Size) -> Size:
    """(height, width) of the grid for a video of this size."""
    scale = min(1.0, MAX_SIDE / max(canvas))
    return max(1, round(canvas[0] * scale)), max(1, round(canvas[1] * scale))


@dataclass
class MaskStore:
    """The tracks of one video on the grid.

    A query that is reported under several classes has the same masks each time; they are kept once.
    """

    canvas: Size
    """(height, width) of the video."""
    frames: Sequence[int]
    """The frames that are shown."""
    tracks: list[list[str | None]] = field(default_factory=list)
    """Per distinct track and shown frame: compressed run lengths on the grid, None if absent."""
    _places: dict[tuple, int] = field(default_factory=dict)

    def add(self, track: Track) -> int:
        """Shrink a track. Returns: its position in `tracks`."""
        arrays = track.zeros, track.ones, track.first
        key = (*track.sizes, *(array.tobytes() for array in arrays))
        if key not in self._places:
            self._places[key] = len(self.tracks)
            self.tracks.append([self._shrink(track, t) for t in self.frames])
        return self._places[key]

    def _shrink(self, track: Track, frame: int) -> str | None:
        size = track.sizes[frame] if frame < len(track.sizes) else None
        if size is None:
            return None
        edges = np.stack(track.intervals(frame, frame + 1), axis=1).ravel()
        return _compress(_scale(edges, size, grid_of(self.canvas)), grid_of(self.canvas))


def _scale(edges: np.ndarray, size: Size, grid: Size) -> np.ndarray:
    """Where runs begin and end on the grid, from where they do in the frame, column by column."""
    if grid[0] > size[0] or grid[1] > size[1]:  # smaller than its video: no such simple relation
        rows, columns = (_samples(*pair) for pair in zip(size, grid, strict=True))
        places = (columns[:, None] * size[0] + rows).ravel()
        is_inside = np.searchsorted(edges, places, "right") % 2
        return np.flatnonzero(np.diff(is_inside, prepend=0, append=0))
    columns, rows = np.divmod(edges, size[0])
    column_rank, is_sampled = _ranks(size[1], grid[1])
    row_rank, _ = _ranks(size[0], grid[0])
    return column_rank[columns] * grid[0] + is_sampled[columns] * row_rank[rows]


def _compress(edges: np.ndarray, grid: Size) -> str:
    """Run lengths as text. Where an even number of edges coincide, there is none."""
    edges, counts = np.unique(edges, return_counts=True)
    runs = np.diff(edges[counts % 2 == 1], prepend=0, append=grid[0] * grid[1])
    return compress_runs(runs[:-1] if runs[-1] == 0 else runs)


@cache
def _samples(length: int, parts: int) -> np.ndarray:
    """The pixels of a side nearest to the centres of equal parts of it."""
    return ((np.arange(parts) + 0.5) * length / parts).astype(int)


@cache
def _ranks(length: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """For every position 0..length of a side: samples before it, and whether it is one."""
    positions = np.arange(length + 1)
    samples = _samples(length, parts)
    return np.searchsorted(samples, positions), np.isin(positions, samples)
