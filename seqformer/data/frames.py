"""Image files -> RGB arrays, and every way in which one can be broken, in words."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from seqformer.data.arena import Video

_ZERO_TAIL = 64
"""No image ends in so many zero bytes. JPEGs whose end was lost in a copy do, and would decode."""
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_DECODER_ERRORS = (
    OSError,  # truncated, among others
    SyntaxError,  # Pillow's word for broken PNG chunks
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def read_frame(path: str | Path) -> np.ndarray:
    """Decode one image file to uint8 RGB [H, W, 3], as it is stored (no rotation by EXIF); grey
    becomes RGB, 16 bits become 8, alpha is dropped.

    A whole grey or colour JPEG is decoded by OpenCV, in a third of Pillow's time and to the same
    pixels (both use libjpeg-turbo with the accurate transform); everything else by Pillow.

    Raises: FileNotFoundError; ValueError when it is no image, or is cut off.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"frame {path} does not exist; check the image folder and the file names"
        ) from None
    if not any(data[-_ZERO_TAIL:]):
        raise ValueError(f"{path} is empty or ends in zeros, so it is not complete; copy it again")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if data.startswith(_JPEG_START) and image.mode in ("L", "RGB") and _has_end(data):
                # OpenCV would fill a file without its end with grey, so those go to Pillow.
                flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
                pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
                if pixels is not None:
                    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
            return _to_rgb(image)
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that Pillow can read; copy it again") from None
    except _DECODER_ERRORS as error:
        raise ValueError(f"{path} cannot be decoded ({error}); copy it again") from None


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # Pillow's conversion would clip 16 bits at 255
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("its values exceed 16 bits")
        return (grey >> 8).astype(np.uint8)[..., None].repeat(3, axis=2)
    return np.array(image.convert("RGB"))


def read_video_frame(images: Path, video: Video, frame: int) -> np.ndarray:
    """Decode one frame of a listed video to uint8 RGB [H, W, 3].

    Raises: FileNotFoundError; ValueError, also when its size is not that of the annotation file.
    """
    path = images / video.file_name(frame)
    image = read_frame(path)
    if image.shape[:2] != (video.height, video.width):
        height, width = image.shape[:2]
        raise ValueError(
            f"{path} has {height} x {width} pixels but the annotation file says {video.height} x "
            f"{video.width} for video {video.id}; images and annotations must belong together"
        )
    return image


def _has_end(data: bytes) -> bool:
    """Whether the JPEG's end marker is the last thing in the file, but for a little padding."""
    return _JPEG_END in data[-_ZERO_TAIL:]
