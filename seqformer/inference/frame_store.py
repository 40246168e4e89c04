"""What drawing masks needs of every frame seen, in host memory and, when that is full, on disk.

Per frame that is the mask features (8 channels at the mask stride), the references that entered the
last decoder layer and the boxes that left it: about 0.12 MB at 360x640 in float32.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from seqformer.files import writing_to


@dataclass(frozen=True)
class FrameData:
    """Consecutive frames of a video, on the host.

    Attributes:
        first: number of the first of these frames in the video.
        mask_features: [t, 8, h, w], float32 or float16 (bfloat16 as its bits, uint16).
        references: [t, Q, 2] float32, (x, y) in 0..1.
        boxes: [t, Q, 4] float32, (cx, cy, w, h) in 0..1.
    """

    first: int
    mask_features: np.ndarray
    references: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.mask_features)

    @property
    def stop(self) -> int:
        """One past the last frame."""
        return self.first + len(self)

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return self.mask_features.nbytes + self.references.nbytes + self.boxes.nbytes

    def frames(self, start: int, stop: int) -> FrameData:
        """Frames start..stop-1 of the video, as far as they are here (views)."""
        cut = slice(max(start - self.first, 0), max(stop - self.first, 0))
        first = min(max(start, self.first), self.stop)
        return FrameData(first, self.mask_features[cut], self.references[cut], self.boxes[cut])


@dataclass(frozen=True)
class _OnDisk:
    """Where a chunk lies in the file, and how to read it back."""

    first: int
    length: int
    offset: int
    nbytes: int
    layout: tuple[tuple[np.dtype, tuple[int, ...]], ...]


class FrameStore:
    """A queue of `FrameData`: append at one end, forget at the other, read any stretch."""

    def __init__(
        self, memory_limit: int, disk_limit: int | None = None, folder: Path | None = None
    ) -> None:
        """Keep nothing yet.

        Args:
            memory_limit: bytes of host memory; what is beyond goes to a temporary file.
            disk_limit: bytes of that file; None for as much as the disk has.
            folder: where the file is made; by default the system's folder for such files.
        """
        self.memory_limit, self.disk_limit, self.folder = memory_limit, disk_limit, folder
        self._chunks: list[FrameData | _OnDisk] = []
        self._in_memory = self._on_disk = 0
        self._file: IO[bytes] | None = None
        self._free: list[tuple[int, int]] = []  # (offset, bytes) of forgotten chunks

    @property
    def start(self) -> int:
        """Number of the first frame kept; 0 when none is."""
        return self._chunks[0].first if self._chunks else 0

    @property
    def stop(self) -> int:
        """One past the last frame kept."""
        if not self._chunks:
            return 0
        last = self._chunks[-1]
        return last.first + (last.length if isinstance(last, _OnDisk) else len(last))

    @property
    def memory_bytes(self) -> int:
        """Host memory in use."""
        return self._in_memory

    @property
    def disk_bytes(self) -> int:
        """Disk in use."""
        return self._on_disk

    def append(self, data: FrameData) -> None:
        """Keep a chunk.

        Raises: ValueError when memory and disk limits are both reached; all that was kept before
            can still be read.
        """
        assert not self._chunks or data.first == self.stop
        if self._in_memory + data.nbytes <= self.memory_limit:
            self._chunks.append(data)
            self._in_memory += data.nbytes
            return
        if self.disk_limit is not None and self._on_disk + data.nbytes > self.disk_limit:
            raise ValueError(
                f"what drawing needs of {data.stop} frames exceeds {self.memory_limit >> 20} MiB "
                f"of memory and {self.disk_limit >> 20} MiB of disk; raise a limit, or give a "
                "window to keep only the latest frames"
            )
        self._chunks.append(self._write(data))

    def forget_before(self, frame: int) -> None:
        """Drop the chunks that end at or before a frame."""
        while self._chunks:
            first = self._chunks[0]
            length = first.length if isinstance(first, _OnDisk) else len(first)
            if first.first + length > frame:
                return
            del self._chunks[0]
            if isinstance(first, _OnDisk):
                self._on_disk -= first.nbytes
                self._free.append((first.offset, first.nbytes))
            else:
                self._in_memory -= first.nbytes

    def read(self, start: int, stop: int) -> Iterator[FrameData]:
        """The frames start..stop-1 that are kept, chunk by chunk."""
        for chunk in self._chunks:
            length = chunk.length if isinstance(chunk, _OnDisk) else len(chunk)
            if chunk.first + length <= start or chunk.first >= stop:
                continue
            data = self._load(chunk) if isinstance(chunk, _OnDisk) else chunk
            yield data.frames(start, stop)

    def close(self) -> None:
        """Forget everything and delete the file."""
        self._chunks.clear()
        self._in_memory = self._on_disk = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, data: FrameData) -> _OnDisk:
        folder = self.folder or Path(tempfile.gettempdir())
        with writing_to(folder / "temporary file"):
            return self._write_to_file(data)

    def _write_to_file(self, data: FrameData) -> _OnDisk:
        if self._file is None:
            # Without a name: it is gone whenever the process is.
            self._file = tempfile.TemporaryFile(dir=self.folder, prefix="seqformer-")  # noqa: SIM115
        arrays = (data.mask_features, data.references, data.boxes)
        offset = self._place_for(data.nbytes)
        self._file.seek(offset)
        for array in arrays:
            self._file.write(np.ascontiguousarray(array).data)
        self._file.flush()
        self._on_disk += data.nbytes
        layout = tuple((array.dtype, array.shape) for array in arrays)
        return _OnDisk(data.first, len(data), offset, data.nbytes, layout)

    def _place_for(self, nbytes: int) -> int:
        """The place of a forgotten chunk of that size, so that an endless video does not make an
        endless file; else the end of the file."""
        for index, (offset, size) in enumerate(self._free):
            if size == nbytes:
                del self._free[index]
                return offset
        assert self._file is not None
        return self._file.seek(0, os.SEEK_END)

    def _load(self, chunk: _OnDisk) -> FrameData:
        assert self._file is not None
        self._file.seek(chunk.offset)
        arrays = []
        for dtype, shape in chunk.layout:
            array = np.empty(shape, dtype)
            self._file.readinto(array.data.cast("B"))  # type: ignore[attr-defined]
            arrays.append(array)
        return FrameData(chunk.first, *arrays)
