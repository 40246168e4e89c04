"""Where frames come from: an annotation file, a folder of images, or a video file.

A source reads its frames one at a time, as often as asked, so a long video is never held in memory
at its original size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from seqformer.data.frames import read_frame
from seqformer.data.ytvis import AnnotationSet

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".gif"})


@dataclass(frozen=True, kw_only=True)
class VideoSource:
    """One video that can be read.

    Attributes:
        video_id: its id in results.
        name: unique among the sources of a run; usable as a file name.
        first_file_name: as the annotation file has it, or made alike.
        paths: the frames in order, or one video file.
        is_video_file: whether `paths` is that one video file.
        listed_size: (height, width) in the annotation file, if there is one.
    """

    video_id: int
    name: str
    first_file_name: str
    paths: tuple[Path, ...]
    is_video_file: bool = False
    listed_size: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"video {self.video_id} ({self.name})"

    def frames(self) -> Iterator[np.ndarray]:
        """uint8 RGB [h0, w0, 3], in order.

        Raises: FileNotFoundError or ValueError naming the file that is missing or broken.
        """
        if self.is_video_file:
            return read_video(self.paths[0])
        return (read_frame(path) for path in self.paths)

    def num_frames(self) -> int:
        """Frames, as far as that is known without decoding; at least 1. For sharing work only."""
        if not self.is_video_file:
            return max(1, len(self.paths))
        try:
            with av.open(str(self.paths[0])) as container:
                stream = container.streams.video[0]
                seconds = (container.duration or 0) / av.time_base
                return max(1, stream.frames or int(seconds * float(stream.average_rate or 0)))
        except (av.FFmpegError, OSError, IndexError):
            return 1  # unreadable: it will be reported when its turn comes

    def fps(self) -> float | None:
        """Frames per second of a video file, if it says so; None for images."""
        if not self.is_video_file:
            return None
        with av.open(str(self.paths[0])) as container:
            rate = container.streams.video[0].average_rate
        return float(rate) if rate else None


def read_video(path: Path) -> Iterator[np.ndarray]:
    """Decode a video file, frame by frame, to uint8 RGB [h0, w0, 3], upright as players show it.

    Raises: FileNotFoundError; ValueError when it is no video or breaks off.
    """
    if not path.is_file():
        raise FileNotFoundError(f"video {path} does not exist; check the path")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no picture stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                picture = frame.to_ndarray(format="rgb24")
                quarter_turns = round(getattr(frame, "rotation", 0) / 90)  # newer PyAV knows it
                yield np.ascontiguousarray(np.rot90(picture, quarter_turns))
    except av.FFmpegError as error:
        raise ValueError(f"{path} cannot be decoded as a video ({error.strerror})") from None


def open_video(path: Path, video_id: int = 1) -> VideoSource:
    """A folder of images or a video file as one video. Raises: FileNotFoundError, ValueError."""
    if path.is_dir():
        images = _children(path, IMAGE_SUFFIXES)
        if not images:
            raise ValueError(f"{path} holds no images ({' '.join(sorted(IMAGE_SUFFIXES))})")
        name = path.resolve().name
        return VideoSource(
            video_id=video_id,
            name=name,
            first_file_name=f"{name}/{images[0].name}",
            paths=tuple(images),
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a folder of images or a video file")
    return VideoSource(
        video_id=video_id,
        name=path.stem,
        first_file_name=path.name,
        paths=(path,),
        is_video_file=True,
    )


def find_videos(path: Path) -> list[VideoSource]:
    """All videos at `path`: a video file, a folder of images, or a folder of either kind.

    Ids count from 1 in natural order of the names. Raises: FileNotFoundError, ValueError.
    """
    if not path.is_dir() or _children(path, IMAGE_SUFFIXES):
        return [open_video(path)]
    folders = [p for p in _sorted(path.iterdir()) if p.is_dir() and _children(p, IMAGE_SUFFIXES)]
    videos = _sorted([*folders, *_children(path, VIDEO_SUFFIXES)])
    if not videos:
        raise ValueError(
            f"{path} holds no images, no folders of images and no video files; with an annotation "
            "file give --annotations too"
        )
    return _with_unique_names([open_video(p, index) for index, p in enumerate(videos, start=1)])


def listed_videos(annotations: AnnotationSet, images: Path) -> list[VideoSource]:
    """The videos of an annotation file, whose frames lie under `images`."""
    return _with_unique_names(
        [
            VideoSource(
                video_id=video.id,
                name=_folder_name(video.file_names, video.id),
                first_file_name=video.file_names[0] if video.file_names else "",
                paths=tuple(images / name for name in video.file_names),
                listed_size=(video.height, video.width),
            )
            for video in annotations.videos
        ]
    )


def _folder_name(file_names: tuple[str, ...], video_id: int) -> str:
    parts = Path(file_names[0]).parts[:-1] if file_names else ()
    return re.sub(r"[^\w.-]+", "_", "_".join(parts)).strip("._") or f"video_{video_id}"


def _with_unique_names(sources: list[VideoSource]) -> list[VideoSource]:
    counts: dict[str, int] = {}
    for source in sources:
        counts[source.name] = counts.get(source.name, 0) + 1
    return [
        s if counts[s.name] == 1 else replace(s, name=f"{s.name}_{s.video_id}") for s in sources
    ]


def _children(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return _sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in suffixes and p.is_file() and not p.name.startswith(".")
    )


def _sorted(paths: Iterable[Path]) -> list[Path]:
    """Numbers inside names count as numbers: frame2 before frame10."""

    def key(path: Path) -> list[str | int]:
        parts: list[str | int] = list(re.split(r"(\d+)", path.name))  # text, digits, text, ...
        parts[1::2] = [int(digits) for digits in parts[1::2]]
        return parts

    return sorted(paths, key=key)
