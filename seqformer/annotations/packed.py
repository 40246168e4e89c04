"""Annotations of a data set as a dozen flat columns, in memory or in a file that processes share.

Python objects cost a hundred bytes for each box and mask, and every loading process would copy
them page by page, because reading an object changes its reference count. The columns are read only:
forked workers share their memory, and when they come from a file (`save_packed`, `open_packed`) all
processes of a machine do. Masks, the bulk of it, stay in the file and are read one at a time.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from safetensors.numpy import save

from seqformer.annotations.packed_masks import Segmentation, unpack_segmentation
from seqformer.files import write_bytes
from seqformer.safe_files import open_regular


class Columns(NamedTuple):
    """V videos with F frames, A instances with E entries (one per frame of their video).

    `*_starts[i] : *_starts[i + 1]` is the range of the i-th owner.
    """

    video_ids: np.ndarray
    """[V] uint64"""
    sizes: np.ndarray
    """[V, 2] int32, (height, width)"""
    frame_starts: np.ndarray
    """[V + 1] int64: frames of a video"""
    name_starts: np.ndarray
    """[F + 1] int64: characters of a file name"""
    names: np.ndarray
    """uint8, UTF-8"""
    instance_starts: np.ndarray
    """[V + 1] int64: instances of a video"""
    annotation_ids: np.ndarray
    """[A] uint64"""
    category_ids: np.ndarray
    """[A] uint64"""
    is_crowd: np.ndarray
    """[A] bool"""
    entry_starts: np.ndarray
    """[A + 1] int64: entries of an instance"""
    boxes_xyxy: np.ndarray
    """[E, 4] float32, pixels, inside the frame; zeros where missing"""
    segmentation_starts: np.ndarray
    """[E + 1] int64: bytes of a packed segmentation"""


class FileSlice:
    """Bytes of a file, read when they are sliced. Works across forks and pickling."""

    def __init__(self, path: Path, offset: int) -> None:
        self.path, self.offset = path, offset
        self._file = os.open(path, os.O_RDONLY)

    def __getitem__(self, span: slice) -> bytes:
        data = os.pread(self._file, span.stop - span.start, self.offset + span.start)
        if len(data) < span.stop - span.start:
            raise OSError(f"{self.path} has become shorter; delete it, it is made again")
        return data

    def __reduce__(self) -> tuple:
        if self.path.is_file():
            return FileSlice, (self.path, self.offset)
        size = os.fstat(self._file).st_size - self.offset  # a temporary file, for spawned workers
        return bytes, (self[0:size],)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


@dataclass(frozen=True, eq=False)
class PackedAnnotations:
    """The columns, the packed segmentations, and what else the file says (`extra`, plain JSON)."""

    columns: Columns
    segmentations: bytes | FileSlice
    extra: dict[str, Any]

    def segmentation(self, entry: int) -> Segmentation:
        """Of one instance in one frame."""
        start, stop = self.columns.segmentation_starts[entry : entry + 2].tolist()
        return unpack_segmentation(self.segmentations[start:stop]) if stop > start else None


@dataclass(frozen=True, slots=True)
class Instance:
    """A view of one annotated object of a video of L frames."""

    packed: PackedAnnotations
    index: int

    @property
    def annotation_id(self) -> int:
        """As in the file."""
        return int(self.packed.columns.annotation_ids[self.index])

    @property
    def category_id(self) -> int:
        """As in the file (COCO: mapped)."""
        return int(self.packed.columns.category_ids[self.index])

    @property
    def is_crowd(self) -> bool:
        """Whether it stands for several objects; such are never trained on."""
        return bool(self.packed.columns.is_crowd[self.index])

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """[L, 4] float32 in pixels, clipped to the frame; zeros where missing."""
        start, stop = self.packed.columns.entry_starts[self.index : self.index + 2]
        return self.packed.columns.boxes_xyxy[start:stop]

    def segmentation(self, frame: int) -> Segmentation:
        """The mask in one frame, not decoded."""
        return self.packed.segmentation(int(self.packed.columns.entry_starts[self.index]) + frame)

    @property
    def segmentations(self) -> tuple[Segmentation, ...]:
        """L of them."""
        return tuple(map(self.segmentation, range(len(self.boxes_xyxy))))


@dataclass(frozen=True, slots=True)
class Video:
    """A view of one video; its instances are in the order of the file."""

    packed: PackedAnnotations
    index: int

    @property
    def id(self) -> int:
        """As in the file."""
        return int(self.packed.columns.video_ids[self.index])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.packed.columns.sizes[self.index, 0])

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.packed.columns.sizes[self.index, 1])

    @property
    def length(self) -> int:
        """L, number of frames."""
        start, stop = self.packed.columns.frame_starts[self.index : self.index + 2]
        return int(stop - start)

    def file_name(self, frame: int) -> str:
        """Of one frame, relative to the image folder."""
        columns = self.packed.columns
        number = int(columns.frame_starts[self.index]) + frame
        start, stop = columns.name_starts[number : number + 2]
        return columns.names[start:stop].tobytes().decode("utf-8")

    @property
    def file_names(self) -> tuple[str, ...]:
        """L of them."""
        return tuple(map(self.file_name, range(self.length)))

    @property
    def instances(self) -> tuple[Instance, ...]:
        """All of them, crowds included."""
        start, stop = self.packed.columns.instance_starts[self.index : self.index + 2]
        return tuple(Instance(self.packed, int(i)) for i in range(start, stop))


class Videos(Sequence[Video]):
    """The videos of an packed, in the order of the file."""

    def __init__(self, packed: PackedAnnotations) -> None:
        self.packed = packed

    def __len__(self) -> int:
        return len(self.packed.columns.video_ids)

    @overload
    def __getitem__(self, index: int) -> Video: ...

    @overload
    def __getitem__(self, index: slice) -> list[Video]: ...

    def __getitem__(self, index: int | slice) -> Video | list[Video]:
        if isinstance(index, slice):
            return [Video(self.packed, number) for number in range(len(self))[index]]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} videos, no number {index}")
        return Video(self.packed, index % len(self))

    def __iter__(self) -> Iterator[Video]:
        return (Video(self.packed, index) for index in range(len(self)))


class PackedBuilder:
    """Collects videos, then instances in any order, and lays them flat."""

    def __init__(self) -> None:
        self.videos: list[tuple[int, int, int, int]] = []  # id, height, width, length
        self.names: list[bytes] = []
        self.instances: list[tuple[int, int, int, bool]] = []  # video, id, category, crowd
        self.boxes: list[np.ndarray] = []
        self.packed: list[list[bytes]] = []

    def add_video(self, video_id: int, height: int, width: int, file_names: Sequence[str]) -> None:
        """The next video."""
        self.videos.append((video_id, height, width, len(file_names)))
        self.names += [name.encode("utf-8") for name in file_names]

    def add_instance(
        self,
        video: int,
        annotation_id: int,
        category_id: int,
        is_crowd: bool,
    ) -> None:
        """An instance of the video at position `video`.

        Its L boxes and L packed segmentations are put into `boxes` and `packed` at the end.
        """
        self.instances.append((video, annotation_id, category_id, is_crowd))

    def build(self, extra: dict[str, Any]) -> PackedAnnotations:
        """Everything so far; instances in the order of their videos, then of the file."""
        videos = np.array(self.videos, np.uint64).reshape(-1, 4)
        instances = np.array(self.instances, np.uint64).reshape(-1, 4)
        order = np.argsort(instances[:, 0], kind="stable")
        instances = instances[order]
        packed = [entry for i in order for entry in self.packed[i]]
        boxes = [np.zeros((0, 4), np.float32), *(self.boxes[i] for i in order)]
        columns = Columns(
            video_ids=videos[:, 0].copy(),
            sizes=videos[:, 1:3].astype(np.int32),
            frame_starts=_starts(videos[:, 3]),
            name_starts=_starts([len(name) for name in self.names]),
            names=np.frombuffer(b"".join(self.names), np.uint8),
            instance_starts=_starts(
                np.bincount(instances[:, 0].astype(np.int64), minlength=len(videos))
            ),
            annotation_ids=instances[:, 1].copy(),
            category_ids=instances[:, 2].copy(),
            is_crowd=instances[:, 3].astype(bool),
            entry_starts=_starts([len(self.boxes[i]) for i in order]),
            boxes_xyxy=np.concatenate(boxes).astype(np.float32),
            segmentation_starts=_starts([len(entry) for entry in packed]),
        )
        return PackedAnnotations(columns, b"".join(packed), extra)


def _starts(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)


def save_packed(packed: PackedAnnotations, path: Path) -> None:
    """Write one safetensors file; it appears under its name only when it is complete.

    Raises: WriteError when the folder cannot be written or the disk is full.
    """
    assert isinstance(packed.segmentations, bytes), "what comes from a file is saved already"
    tensors = {
        **packed.columns._asdict(),
        "segmentations": np.frombuffer(packed.segmentations, "u1"),
    }
    tensors["is_crowd"] = tensors["is_crowd"].view(np.uint8)
    write_bytes(path, save(tensors, metadata={"extra": json.dumps(packed.extra)}))


def open_packed(path: Path) -> PackedAnnotations:
    """Map a file of `save_packed` into memory; segmentations are read from it one by one.

    Raises: OSError or ValueError when it is missing or not such a file.
    """
    try:
        packed = _map(path)
        _check_ranges(packed.columns, path.stat().st_size)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a complete annotation cache ({error}); delete it, it is made again"
        ) from None
    return packed


def _map(path: Path) -> PackedAnnotations:
    with open_regular(path, "annotation cache") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if length > path.stat().st_size:
            raise ValueError("it is cut off")
        header = json.loads(file.read(length))
    start = 8 + length
    columns = {}
    for name in Columns._fields:
        entry = header[name]
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        first, last = entry["data_offsets"]
        if last > first:
            columns[name] = np.memmap(path, dtype, "r", start + first, shape).view(np.ndarray)
        elif math.prod(shape):
            raise ValueError(f"its {name} are missing")
        else:
            columns[name] = np.zeros(shape, dtype)
    columns["is_crowd"] = columns["is_crowd"].view(bool)
    segmentations = FileSlice(path, start + header["segmentations"]["data_offsets"][0])
    return PackedAnnotations(
        Columns(**columns), segmentations, json.loads(header["__metadata__"]["extra"])
    )


_DTYPES = {"I64": np.int64, "U64": np.uint64, "I32": np.int32, "F32": np.float32, "U8": np.uint8}


def _check_ranges(columns: Columns, num_bytes: int) -> None:
    """Raises: ValueError unless every range lies in what it is a range of."""
    for starts, owners, owned in (
        (columns.frame_starts, len(columns.video_ids), len(columns.name_starts) - 1),
        (columns.name_starts, None, len(columns.names)),
        (columns.instance_starts, len(columns.video_ids), len(columns.annotation_ids)),
        (columns.entry_starts, len(columns.annotation_ids), len(columns.boxes_xyxy)),
        (columns.segmentation_starts, len(columns.boxes_xyxy), None),
    ):
        is_sound = starts.ndim == 1 and starts.size and starts[0] == 0
        if not is_sound or (np.diff(starts) < 0).any():
            raise ValueError("its ranges are not in order")
        if owners not in (None, len(starts) - 1) or owned not in (None, int(starts[-1])):
            raise ValueError("its ranges are not those of its entries")
    if columns.segmentation_starts[-1] > num_bytes or columns.sizes.min(initial=1) < 1:
        raise ValueError("its masks or sizes are not whole")
