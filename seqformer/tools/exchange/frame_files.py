"""The frames of converted videos as picture files: copied from an export, or read from a video."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from seqformer.annotations.masks import Size
from seqformer.data.frames import read_frame
from seqformer.data.pictures import open_picture, orientation, stored_size
from seqformer.data.video_reader import read_video
from seqformer.files import replacing, write_bytes, writing_to
from seqformer.tools.exchange.archive import Archive
from seqformer.tools.exchange.drawn_videos import DrawnVideo

logger = logging.getLogger(__name__)

_QUALITY = 95
"""Of JPEG files made from a video."""
_MAX_NAME = 80


def safe_names(titles: Sequence[str]) -> list[str]:
    """File names for titles: without odd characters, and each one once."""
    names: list[str] = []
    taken: set[str] = set()
    for title in titles:
        base = re.sub(r"[^\w.-]+", "_", title).strip("._")[:_MAX_NAME] or "video"
        name, number = base, 1
        while name.casefold() in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def write_frames(
    video: DrawnVideo, folder: Path, archive: Archive, film: Path | None
) -> list[str] | None:
    """Write the frames of a video into a folder as 00000.jpg, 00001.jpg, ...

    Args:
        film: the video file that the frames are of; None takes the pictures of the export.

    Returns: their names; None when there are no pictures.
    Raises: ValueError or FileNotFoundError naming the picture that is missing, or of another size
        than its video.
    """
    if film is not None:
        return _from_film(video, folder, film)
    missing = [frame.name for frame in video.frames if frame.image is None]
    if missing:
        if len(missing) < len(video.frames):
            raise ValueError(
                f"{archive.path} has no picture for {len(missing)} of the {len(video.frames)} "
                f"frames of {video.name} (first: {missing[0]}); export the task with its images, "
                "or give the video with --frames"
            )
        return None
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    names = []
    for position, frame in enumerate(video.frames):
        assert frame.image is not None
        suffix = PurePosixPath(frame.image).suffix.lower()
        path = folder / f"{position:05d}{suffix}"
        write_bytes(path, archive.read(frame.image))
        _check_size(path, video.size, frame.image)
        names.append(path.name)
    return names


def picture_size(archive: Archive, name: str, folder: Path) -> Size:
    """(height, width) of a picture of an export, upright. Raises: ValueError."""
    probe = folder / f".probe{PurePosixPath(name).suffix.lower()}"
    with writing_to(probe):
        folder.mkdir(parents=True, exist_ok=True)
    write_bytes(probe, archive.read(name))
    try:
        with open_picture(probe, f"picture {name} of {archive.path},") as (image, _):
            height, width = stored_size(image)
            return (width, height) if orientation(image) > 4 else (height, width)
    finally:
        probe.unlink(missing_ok=True)


def _check_size(path: Path, size: Size, name: str) -> None:
    """Tools show a picture upright: one that is stored otherwise is written anew."""
    with open_picture(path) as (image, _):
        asked, own = orientation(image), stored_size(image)
    if asked != 1:
        pixels = read_frame(path, upright=True)
        own = pixels.shape[0], pixels.shape[1]
    if own != size:
        path.unlink(missing_ok=True)
        raise ValueError(
            f"the picture {name} has {own[0]} x {own[1]} pixels, its video {size[0]} x {size[1]}; "
            "all frames of a video must have one size"
        )
    if asked != 1:
        _save(path, pixels)


def _from_film(video: DrawnVideo, folder: Path, film: Path) -> list[str]:
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    wanted = {frame.number: position for position, frame in enumerate(video.frames)}
    names = {}
    last = max(wanted)
    for number, pixels in enumerate(_frames(film, last)):
        if number not in wanted:
            continue
        if pixels.shape[:2] != video.size:
            raise ValueError(
                f"{film} has frames of {pixels.shape[0]} x {pixels.shape[1]} pixels, the "
                f"annotations are of {video.size[0]} x {video.size[1]}; is it another video?"
            )
        path = folder / f"{wanted[number]:05d}.jpg"
        _save(path, pixels)
        names[wanted[number]] = path.name
    if len(names) < len(wanted):
        raise ValueError(
            f"{film} ends before frame {last}, up to which {video.name} is annotated; is it "
            "another video?"
        )
    return [names[position] for position in range(len(wanted))]


def _frames(film: Path, last: int) -> Iterator[np.ndarray]:
    for number, pixels in enumerate(read_video(film)):
        yield pixels
        if number == last:
            return


def _save(path: Path, pixels: np.ndarray) -> None:
    kind = "JPEG" if path.suffix in (".jpg", ".jpeg") else path.suffix[1:].upper()
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, kind, quality=_QUALITY)
