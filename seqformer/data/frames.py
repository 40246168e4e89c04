"""Image files -> RGB arrays, and every way in which one can be broken, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from seqformer.annotations.packed import Video
from seqformer.data.bit_depth import Range, common_range
from seqformer.data.pictures import (
    JPEG_START,
    as_stored,
    deep_values,
    has_end,
    is_deep,
    open_picture,
    orientation,
    tell_orientation,
    turn_upright,
)
from seqformer.safe_files import inside

Frames = Callable[[], Sequence[Path]]
"""Gives the paths of all frames of a video."""


def read_frame(
    path: str | Path,
    *,
    upright: bool = False,
    place: Path | None = None,
    frames: Frames | None = None,
) -> np.ndarray:
    """Decode one image file to uint8 RGB [H, W, 3]; grey becomes RGB, alpha is dropped, numbers of
    more than 8 bits are scaled by the range of all frames of the video.

    The pixels are taken as they are stored, as published; where the EXIF orientation asks for
    another way up, that is said once.

    A whole grey or colour JPEG is decoded by OpenCV, in a third of Pillow's time and to the same
    pixels (both use libjpeg-turbo with the accurate transform); everything else by Pillow.

    Args:
        upright: turn the picture as its EXIF orientation says.
        place: folder for which the orientation is told once; by default that of the file.
        frames: of the video that the picture belongs to; none where it stands alone.

    Raises: FileNotFoundError; ValueError when it is no regular file, no image, is cut off, or
        claims more pixels than the limit (`safe_files.PIXELS_VARIABLE`).
    """
    path = Path(path)
    with open_picture(path) as (image, data):
        turned = orientation(image)
        pixels = decode_picture(image, data, frames)
    if turned != 1 and upright:
        return turn_upright(pixels, turned)
    if turned != 1:
        tell_orientation(path, place or path.parent, turned)
    return pixels


def decode_picture(image: Image.Image, data: bytes, frames: Frames | None = None) -> np.ndarray:
    """The pixels of an opened picture, uint8 RGB [H, W, 3].

    Args:
        frames: see `read_frame`.

    Raises: what the decoders raise; ValueError for negative and non-finite numbers.
    """
    if data.startswith(JPEG_START) and image.mode in ("L", "RGB") and has_end(data):
        # OpenCV would fill a file without its end with grey, so those go to Pillow.
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if pixels is not None:
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    if not is_deep(image, data):
        return as_stored(image, lambda opened: np.array(opened.convert("RGB")))
    values = deep_values(image, data)
    values = values if values.ndim == 3 else values[..., None].repeat(3, axis=2)
    own = Range.of(values)
    return common_range(own, frames() if frames else (), _range_in).to_bytes(values)


def _range_in(path: Path) -> Range:
    """Of a picture with 8 bits, nothing that would count."""
    with open_picture(path) as (image, data):
        return Range.of(deep_values(image, data)) if is_deep(image, data) else Range()


def read_video_frame(
    images: Path, video: Video, frame: int, *, upright: bool = False, allow_outside: bool = False
) -> np.ndarray:
    """Decode one frame of a listed video to uint8 RGB [H, W, 3].

    Args:
        upright: see `read_frame`.
        allow_outside: let file names lead out of the folder of images.

    Raises: FileNotFoundError; ValueError, also when its size is not that of the annotation file.
    """

    def path_of(name: str) -> Path:
        return inside(images, name, allow_outside=allow_outside)

    path = path_of(video.file_name(frame))
    image = read_frame(
        path,
        upright=upright,
        place=images,
        frames=lambda: [path_of(name) for name in video.file_names],
    )
    if image.shape[:2] != (video.height, video.width):
        height, width = image.shape[:2]
        raise ValueError(
            f"{path} has {height} x {width} pixels but the annotation file says {video.height} x "
            f"{video.width} for video {video.id}; images and annotations must belong together"
        )
    return image
