"""Frames to mp4, webm, GIF or PNG files, one frame at a time."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from PIL import Image

from seqformer.files import replacing, write_bytes, writing_to

DEFAULT_FPS = 6.0
"""YouTube-VIS keeps every fifth frame of 30 per second."""
FPS_RANGE = (0.01, 1000.0)
"""Frames per second that the formats can say."""


def check_fps(fps: float, name: str = "fps") -> None:
    """Raises: ValueError for a frame rate that no video can have."""
    low, high = FPS_RANGE
    if not low <= fps <= high:
        raise ValueError(
            f"{name}, the rate of frames per second, must be between {low} and {high:g}, got {fps}"
        )


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float = DEFAULT_FPS,
    *,
    as_pictures: bool = False,
    is_fast: bool = False,
) -> None:
    """Write uint8 RGB frames of one size as mp4, webm or GIF; without suffix, as PNGs in a folder.

    mp4 is H.264 where PyAV has that encoder, else MPEG-4; webm is VP9. An odd width or height gets
    one more column or row, which these formats want. The file appears at `path` when it is
    complete; PNGs are added to the folder one by one. Frames are taken one at a time.

    Args:
        as_pictures: write PNGs in a folder, whatever the name ends in.
        is_fast: encode in less than half of the time, to files several times as large; GIF and PNG
            stay as they are.

    Raises: ValueError on another suffix, an impossible rate, no frames, or frames of different
        sizes; WriteError when the disk is full.
    """
    path = Path(path)
    writers = {".mp4": _write_mp4, ".webm": _write_webm, ".gif": _write_gif}
    as_pictures = as_pictures or not path.suffix
    if not as_pictures and path.suffix.lower() not in writers:
        raise ValueError(
            f"cannot write {path}: the name must end in .mp4, .webm or .gif, or be a folder"
        )
    check_fps(fps)
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{path} would have no frames")
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    frames = _of_one_size(path, itertools.chain([first], frames))
    if as_pictures:
        _write_pngs(path, frames)
        return
    # Written through Python's file, which never keeps silent about a full disk.
    with replacing(path) as temporary, temporary.open("wb") as file:
        writers[path.suffix.lower()](file, frames, fps, is_fast)


def _of_one_size(path: Path, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    shape = None
    for index, frame in enumerate(frames):
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(
                f"frame {index} of {path} would be {frame.shape[1]}x{frame.shape[0]} pixels, the "
                f"first is {shape[1]}x{shape[0]}; the frames of a video must have one size"
            )
        yield frame


def _write_mp4(
    file: BinaryIO, frames: Iterable[np.ndarray], fps: float, is_fast: bool = False
) -> None:
    codec, options = "mpeg4", {}
    if "libx264" in av.codecs_available:
        codec, options = "libx264", {"crf": "20", "preset": "ultrafast" if is_fast else "veryfast"}
    _encode(file, frames, fps, "mp4", codec, options, {"movflags": "faststart"})


def _write_webm(
    file: BinaryIO, frames: Iterable[np.ndarray], fps: float, is_fast: bool = False
) -> None:
    options = {"crf": "30", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
    if is_fast:
        options |= {"deadline": "realtime", "cpu-used": "8"}
    _encode(file, frames, fps, "webm", "libvpx-vp9", options, {})


def _encode(
    file: BinaryIO,
    frames: Iterable[np.ndarray],
    fps: float,
    container_format: str,
    codec: str,
    options: dict[str, str],
    container_options: dict[str, str],
) -> None:
    with av.open(file, "w", format=container_format, options=container_options) as container:
        stream: Any = None  # a VideoStream, once the first frame has told its size
        for frame in frames:
            if frame.shape[0] % 2 or frame.shape[1] % 2:
                odd = [(0, n % 2) for n in frame.shape[:2]]
                frame = np.pad(frame, [*odd, (0, 0)], mode="edge")
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = options
                if codec == "mpeg4":
                    stream.bit_rate = 4_000_000
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _write_gif(
    file: BinaryIO, frames: Iterable[np.ndarray], fps: float, is_fast: bool = False
) -> None:
    # An octree takes a fiftieth of the time of the median cut, and its colours are as near.
    octree = Image.Quantize.FASTOCTREE
    pictures = (Image.fromarray(frame).quantize(256, octree) for frame in frames)
    next(pictures).save(
        file,
        format="GIF",
        save_all=True,
        append_images=pictures,
        duration=round(1000 / fps),
        loop=0,
    )


def _write_pngs(folder: Path, frames: Iterable[np.ndarray]) -> None:
    with writing_to(folder):
        folder.mkdir(exist_ok=True)
    for index, frame in enumerate(frames):
        picture = io.BytesIO()
        Image.fromarray(frame).save(picture, "PNG")
        write_bytes(folder / f"{index:05d}.png", picture.getvalue())
