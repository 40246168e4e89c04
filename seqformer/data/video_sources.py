"""Where frames come from: an annotation file, a folder of images, or a video file.

A source reads its frames one at a time, as often as asked, so a long video is never held in memory
at its original size. `video_reader.py` reads video files.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from seqformer.annotations.ytvis import AnnotationSet
from seqformer.data.frames import read_frame
from seqformer.data.video_reader import announced_frames, frame_rate, read_video
from seqformer.files import natural_key
from seqformer.safe_files import inside

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".bmp", ".dib", ".webp", ".tif"),
        *(".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx", ".avif"),
        *(".sgi", ".pcx"),
    )
)
VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".gif", ".wmv", ".asf", ".flv"),
        *(".f4v", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".ts", ".mts", ".m2ts", ".vob", ".3gp"),
        *(".3g2", ".ogv", ".mxf", ".divx", ".y4m", ".dv", ".rm", ".rmvb", ".nut", ".ivf", ".h264"),
        *(".264", ".hevc", ".265"),
    )
)
_MAX_NAME = 120
"""Characters of a name in outputs."""
_DEVICES = frozenset(
    (
        *("con", "prn", "aux", "nul", "conin$", "conout$"),
        *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"),
    )
)
"""What no file of Windows may be called, whatever its suffix."""
_COVERS = frozenset({"cover", "folder", "poster", "preview", "thumb", "thumbnail"})


@dataclass(frozen=True, kw_only=True)
class VideoSource:
    """One video that can be read.

    Attributes:
        video_id: its id in results.
        name: unique among the sources of a run; usable as a file name.
        first_file_name: as the annotation file has it, or made alike.
        paths: the frames in order, or one video file.
        is_video_file: whether `paths` is that one video file.
        is_still: a single picture, whose results are in COCO layout.
        listed_size: (height, width) in the annotation file, if there is one.
        upright: turn still frames as their EXIF orientation says; video files always are.
        allow_broken: take a video file that breaks off as it is.
        scaled_with: all frames of the video, where `paths` are a part of them; pictures of more
            than 8 bits have one scale in all.
    """

    video_id: int
    name: str
    first_file_name: str
    paths: tuple[Path, ...]
    is_video_file: bool = False
    is_still: bool = False
    listed_size: tuple[int, int] | None = None
    upright: bool = False
    allow_broken: bool = False
    scaled_with: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{'picture' if self.is_still else 'video'} {self.video_id} ({self.name})"

    def frames(self) -> Iterator[np.ndarray]:
        """uint8 RGB [h0, w0, 3], in order.

        Raises: FileNotFoundError or ValueError naming the file that is missing or broken.
        """
        if self.is_video_file:
            return read_video(self.paths[0], self.allow_broken)
        together = self.scaled_with or self.paths
        return (
            read_frame(path, upright=self.upright, frames=lambda: together) for path in self.paths
        )

    def num_frames(self) -> int:
        """Frames, as far as that is known without decoding; at least 1. For sharing work only."""
        if not self.is_video_file:
            return max(1, len(self.paths))
        return announced_frames(self.paths[0])

    def fps(self) -> float | None:
        """Frames per second of a video file, if it says so; None for images."""
        return frame_rate(self.paths[0]) if self.is_video_file else None


def open_video(path: Path, video_id: int = 1) -> VideoSource:
    """A folder of images or a video file as one video. Raises: FileNotFoundError, ValueError."""
    if path.is_dir():
        images = _children(path, IMAGE_SUFFIXES)
        if not images:
            raise ValueError(f"{path} holds no images ({' '.join(sorted(IMAGE_SUFFIXES))})")
        return _of_images(path.resolve().name, images, video_id)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a folder of images or a video file")
    return VideoSource(
        video_id=video_id,
        name=safe_name(path.stem, video_id),
        first_file_name=path.name,
        paths=(path,),
        is_video_file=True,
    )


def _of_images(name: str, images: Sequence[Path], video_id: int) -> VideoSource:
    return VideoSource(
        video_id=video_id,
        name=safe_name(name.replace("/", "_"), video_id),
        first_file_name=f"{name}/{images[0].name}",
        paths=tuple(images),
    )


def find_videos(path: Path) -> list[VideoSource]:
    """All videos at `path`: a video file, or what a folder and all folders in it hold: video files,
    and folders of images, each of which is a video.

    Images beside video files are a video, too, unless they are covers: a single one, or of a
    video's name. Whatever else is there is left out, which one warning says. Ids count from 1 in
    natural order of the names. Raises: FileNotFoundError, ValueError.
    """
    if not path.is_dir():
        return [open_video(path)]
    videos_found: list[tuple[str, Path, list[Path]]] = []
    left_out: list[str] = []
    for folder, files in walk_files(path):
        relative = folder.relative_to(path).as_posix()
        videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
        images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        covers = _covers(images, videos)
        images = [file for file in images if file not in covers]
        used = {*videos, *images}
        left_out += [file.relative_to(path).as_posix() for file in files if file not in used]
        videos_found += [(file.relative_to(path).as_posix(), file, []) for file in videos]
        if images:
            name = path.resolve().name if relative == "." else relative
            videos_found.append((relative, Path(name), images))
    if not videos_found:
        raise ValueError(
            f"{path} holds no images, no folders of images and no video files; with an annotation "
            "file give --annotations too"
        )
    if left_out:
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        logger.warning(
            "%d files in %s are not used: %s%s",
            len(left_out),
            path,
            ", ".join(left_out[:5]),
            more,
        )
    videos_found.sort(key=lambda video: natural_key(video[0]))
    return with_unique_names(
        [
            _of_images(where.as_posix(), images, number) if images else open_video(where, number)
            for number, (_, where, images) in enumerate(videos_found, start=1)
        ]
    )


def walk_files(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Every folder, once however links lead there, and its files; hidden ones are passed by."""
    seen: set[tuple[int, int]] = set()
    for name, folders, files in os.walk(root, followlinks=True):
        folder = Path(name)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [child for child in folders if not child.startswith(".")]
        yield folder, _sorted(folder / file for file in files if not file.startswith("."))


def _covers(images: Sequence[Path], videos: Sequence[Path]) -> set[Path]:
    """The images that are covers or previews of video files beside them."""
    if not videos:
        return set()
    names = {video.stem.casefold() for video in videos} | _COVERS
    covers = {image for image in images if image.stem.casefold() in names}
    rest = [image for image in images if image not in covers]
    return covers | set(rest if len(rest) == 1 else ())


def listed_videos(
    annotations: AnnotationSet, images: Path, allow_outside: bool = False
) -> list[VideoSource]:
    """The videos of an annotation file, whose frames lie under `images`.

    Raises: ValueError for file names that lead out of `images`, unless `allow_outside`.
    """
    return with_unique_names(
        [
            VideoSource(
                video_id=video.id,
                name=_folder_name(video.file_names, video.id),
                first_file_name=video.file_names[0] if video.file_names else "",
                paths=tuple(
                    inside(images, name, allow_outside=allow_outside) for name in video.file_names
                ),
                listed_size=(video.height, video.width),
            )
            for video in annotations.videos
        ]
    )


def _folder_name(file_names: tuple[str, ...], video_id: int) -> str:
    parts = Path(file_names[0]).parts[:-1] if file_names else ()
    return safe_name(re.sub(r"[^\w.-]+", "_", "_".join(parts)).strip("._"), video_id)


def safe_name(name: str, video_id: int) -> str:
    """A name that is one in every file system: not empty, not too long, without odd characters."""
    name = re.sub(r'[\x00-\x1f<>:"/\\|?*]+', "_", name).strip()[:_MAX_NAME].rstrip(". ")
    first, dot, rest = name.partition(".")
    if first.strip().casefold() in _DEVICES:
        name = f"{first}_{dot}{rest}"
    return name if name.strip("._ ") else f"video_{video_id}"


def with_unique_names(sources: list[VideoSource]) -> list[VideoSource]:
    """Names that stay apart where capitals and ways to write an accent do not count."""

    def key(name: str) -> str:
        return unicodedata.normalize("NFKC", name).casefold()

    counts: dict[str, int] = {}
    for source in sources:
        counts[key(source.name)] = counts.get(key(source.name), 0) + 1
    taken = {name for name, count in counts.items() if count == 1}
    unique = []
    for source in sources:
        name = source.name
        if counts[key(name)] > 1:
            name = f"{source.name}_{source.video_id}"
            while key(name) in taken:
                name += "_"
            taken.add(key(name))
        unique.append(replace(source, name=name))
    return unique


def _children(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return _sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in suffixes and not p.is_dir() and not p.name.startswith(".")
    )


def _sorted(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: natural_key(path.name))
