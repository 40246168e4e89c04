"""Picture files that somebody else made: what they claim is checked before it is decoded."""

from __future__ import annotations

import io
import logging
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from seqformer.safe_files import PIXELS_VARIABLE, check_pixels, max_pixels, read_regular

logger = logging.getLogger(__name__)

JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_TAIL = 64
"""No coded picture data ends in so many zero bytes. JPEGs whose end was lost in a copy do, and
would decode."""
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""Behind the start of a scan: what is neither a pixel's byte nor a restart."""
_ORIENTATION = 0x0112
_DECODER_ERRORS = (
    OSError,  # truncated, among others
    SyntaxError,  # Pillow's word for broken PNG chunks
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
    cv2.error,
)
"""What Pillow and OpenCV raise for damaged files of one kind or another."""
_IMAGE_WIDTH, _IMAGE_LENGTH, _BITS_PER_SAMPLE = 0x0100, 0x0101, 0x0102
_ON_THEIR_SIDE = (5, 6, 7, 8)
"""Orientations of pictures that change height and width when they are turned upright."""
_INVERSE = {6: 8, 8: 6}
"""What undoes an orientation that does not undo itself."""
_told: set[Path] = set()


@contextmanager
def open_picture(path: Path, what: str = "frame") -> Iterator[tuple[Image.Image, bytes]]:
    """A picture whose pixels are not decoded yet, and the bytes of its file.

    What goes wrong with it inside the `with` is said in words, too.

    Args:
        what: to call it in messages.

    Raises: FileNotFoundError; ValueError naming the file when it is no regular file, no image, cut
        off, or claims more pixels than the limit.
    """
    try:
        data = read_regular(path, what)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{what} {path} does not exist; check the image folder and the file names"
        ) from None
    if not data:
        raise ValueError(f"{path} is empty, so it is not complete; copy it again")
    if data.startswith(JPEG_START) and not any(data[-_TAIL:]) and not has_end(data):
        raise ValueError(f"{path} ends in zeros, so it is not complete; copy it again")
    most = max_pixels()
    if Image.MAX_IMAGE_PIXELS is not None and most > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = most  # Pillow has a limit of its own
    try:
        with Image.open(io.BytesIO(data)) as image:
            check_pixels(image.height, image.width, str(path))
            yield image, data
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that Pillow can read; copy it again") from None
    except Image.DecompressionBombError:  # from twice the limit on, Pillow does not open it
        raise ValueError(
            f"{path} says that it has more than {2 * most} pixels, {most} are the most; if that is "
            f"meant, raise the limit with {PIXELS_VARIABLE}"
        ) from None
    except _DECODER_ERRORS as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} cannot be decoded ({error}); copy it again") from None


def has_end(data: bytes) -> bool:
    """Whether a JPEG's end marker is there; anything may follow it."""
    if any(data[-_TAIL:]) and _JPEG_END in data[-_TAIL:]:
        return True
    place = 2
    while 0 <= place <= len(data) - 4 and data[place] == 0xFF:
        kind = data[place + 1]
        if kind == 0xD9:
            return True
        if kind == 0xFF:  # padding
            place += 1
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if kind == 0xDA:  # a scan goes up to the next marker
            marker = _JPEG_MARKER.search(data, place)
            place = marker.start() if marker else -1
    return place >= 0 and data[place : place + 2] == _JPEG_END


def is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether an opened picture has more than 8 bits, or real numbers, for a colour or grey."""
    return image.mode.startswith("I") or image.mode == "F" or _has_deep_colours(image, data)


def deep_values(image: Image.Image, data: bytes) -> np.ndarray:
    """The numbers of a picture that `is_deep`: [H, W], or RGB [H, W, 3], without alpha.

    Raises: ValueError for colours in a format whose deep ones are not read.
    """
    if not _has_deep_colours(image, data):
        return as_stored(image, np.asarray)
    asked = orientation(image)
    values = None  # Pillow keeps the upper 8 bits: black, where a program wrote 10 or 12
    if image.format in ("PNG", "TIFF"):
        image.load()  # OpenCV would fill a file without its end
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    sizes = ((image.height, image.width), (image.width, image.height))  # a TIFF lies on its side
    if values is None or values.dtype != np.uint16 or values.shape[:2] not in sizes:
        raise ValueError("colours of more than 8 bits are not read from it; convert it to 8 bits")
    if image.format == "TIFF":  # both libraries turn it
        values = turn_upright(values, _INVERSE.get(asked, asked))
    if values.ndim == 3 and values.shape[2] >= 3:
        return values[..., 2::-1]
    return values if values.ndim == 2 else values[..., 0]


def _has_deep_colours(image: Image.Image, data: bytes) -> bool:
    """Of formats that Pillow opens as if they had 8 bits."""
    if image.mode not in ("RGB", "RGBA", "LA", "L", "RGBX"):
        return False
    if image.format == "PNG":
        return data[24] == 16
    if image.format == "SGI":
        return data[3] == 2
    if image.format == "TIFF":
        bits = image.getexif().get(_BITS_PER_SAMPLE, 8)
        return max(bits if isinstance(bits, tuple) else (bits,), default=8) > 8
    return False


def as_stored(image: Image.Image, decode: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """What `decode` gives, the way up in which the file has it; Pillow turns TIFF files by itself.

    [H, W, ...] -> the same or [W, H, ...].
    """
    asked = orientation(image)
    pixels = decode(image)
    if asked == 1 or orientation(image) == asked:
        return pixels
    return turn_upright(pixels, _INVERSE.get(asked, asked))


def stored_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened picture as the file has it."""
    if image.format == "TIFF" and orientation(image) in _ON_THEIR_SIDE:
        tags = image.getexif()
        height, width = tags.get(_IMAGE_LENGTH), tags.get(_IMAGE_WIDTH)
        if (height, width) == (image.width, image.height):
            return image.width, image.height
    return image.height, image.width


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of a picture, 1..8; 1 (as it is stored) where it does not say."""
    has_tags = "exif" in image.info or image.format == "TIFF"
    value = image.getexif().get(_ORIENTATION, 1) if has_tags else 1
    return value if type(value) is int and 1 <= value <= 8 else 1


def turn_upright(pixels: np.ndarray, number: int) -> np.ndarray:
    """What an EXIF orientation asks for. [H, W, ...] -> the same or [W, H, ...]."""
    if number in _ON_THEIR_SIDE:
        pixels = pixels.swapaxes(0, 1)
    if number in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if number in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def tell_orientation(path: Path, place: Path, number: int) -> None:
    """Say, once per `place` and process, that a picture is read otherwise than viewers show it."""
    if place in _told:
        return
    _told.add(place)
    logger.warning(
        "%s has the EXIF orientation %d and is read as it is stored, not upright as viewers show "
        "it (as others in %s may be); --upright turns such frames (training: --data.upright), "
        "which the masks of the annotations must then be, too",
        path,
        number,
        place,
    )
