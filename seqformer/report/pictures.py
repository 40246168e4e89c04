"""Frames made small enough for a page: one size and quality for all, as good as the budget allows.

Every frame becomes a WebP picture in text form (base64). A few frames spread over all videos are
encoded at falling sizes until their mean, times the number of frames, fits.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from seqformer.data.frames import read_frame

logger = logging.getLogger(__name__)

LADDER = (
    (960, 75),
    (800, 65),
    (720, 58),
    (640, 52),
    (640, 42),
    (640, 34),
    (560, 32),
    (512, 30),
    (480, 28),
    (448, 26),
    (400, 25),
    (352, 24),
    (288, 22),
    (224, 20),
    (160, 18),
    (96, 10),
)
"""(longer side in pixels, WebP quality), from the best down. A larger picture of lower quality
shows more than a smaller one of the same bytes."""
NUM_SAMPLES = 16
MAX_WARNINGS = 10
Read = Callable[[Path], Image.Image]
SAFETY = 0.95
"""Share of the budget that the estimate may fill."""


def encode_frames(
    videos: Sequence[Sequence[Path]], budget: int, upright: bool = False
) -> list[list[str | None]]:
    """The frames of all videos as `data:` addresses, at most `budget` characters in all.

    A frame that cannot be read is None, and named in a warning.

    Args:
        videos: per video the image files.
        budget: characters; if it is too small even for the lowest quality, no frame is shown.
        upright: see `read_frame`.
    """
    frames = [path for video in videos for path in video]
    if not frames:
        return [[] for _ in videos]
    problems: dict[Path, str] = {}
    video_of = {path: video for video in videos for path in video}

    def read(path: Path) -> Image.Image:
        return Image.fromarray(read_frame(path, upright=upright, frames=lambda: video_of[path]))

    start = _first_rung(frames, budget, read)
    with ThreadPoolExecutor() as pool:  # Pillow works outside of the interpreter lock
        for side, quality in LADDER[start:]:
            encode = partial(_encode, read=read, side=side, quality=quality, problems=problems)
            encoded = list(pool.map(encode, frames))
            total = sum(len(text) for text in encoded if text)
            if total <= budget:
                logger.info("frames at up to %d pixels, WebP quality %d", side, quality)
                break
        else:
            logger.warning("%d frames do not fit into %d characters: none shown", total, budget)
            encoded = [None] * len(frames)
    for problem in list(problems.values())[:MAX_WARNINGS]:
        logger.warning("%s; it is left out of the report", problem)
    if problems:
        logger.warning("%d of %d frames cannot be shown", len(problems), len(frames))
    remaining = iter(encoded)
    return [[next(remaining) for _ in video] for video in videos]


def _first_rung(frames: Sequence[Path], budget: int, read: Read) -> int:
    """The best quality at which a sample of the frames says that all will fit."""
    places = np.unique(np.linspace(0, len(frames) - 1, NUM_SAMPLES).astype(int))
    sample = []
    for place in places:
        with suppress(OSError, ValueError):  # said when its turn comes
            sample.append(read(frames[place]))
    if not sample:
        return 0
    for rung, (side, quality) in enumerate(LADDER):
        mean = np.mean([len(_to_text(picture, side, quality)) for picture in sample])
        if mean * len(frames) <= SAFETY * budget:
            return rung
    return len(LADDER) - 1


def _encode(
    path: Path, read: Read, side: int, quality: int, problems: dict[Path, str]
) -> str | None:
    try:
        return _to_text(read(path), side, quality)
    except (OSError, ValueError) as error:
        problems[path] = str(error)
        return None


def _to_text(picture: Image.Image, side: int, quality: int) -> str:
    if max(picture.size) > side:
        scale = side / max(picture.size)
        width, height = (max(1, round(length * scale)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
