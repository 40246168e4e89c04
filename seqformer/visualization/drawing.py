"""Masks, boxes and labels on frames.

Works from what a `Predictor` returns and from the entries of a results file alike, because both
say category, score and compressed masks. A track keeps its colour through the video. The colours
are those of Okabe & Ito ("Color Universal Design", 2008) and, after them, of Tol's muted scheme,
which stay distinct for colour-blind readers. Needs no torch. `video_writer.py` writes the frames.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from seqformer.annotations.run_lengths import RLE, decode_mask
from seqformer.evaluation.track_iou import build_tracks, track_ious

COLOURS = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (213, 94, 0),  # vermillion
    (204, 121, 167),  # reddish purple
    (0, 114, 178),  # blue
    (136, 34, 85),  # wine
    (68, 170, 153),  # teal
    (51, 34, 136),  # indigo
    (153, 153, 51),  # olive
    (221, 204, 119),  # sand
)
MASK_OPACITY = 0.45
_TINTS = {
    colour: ((1 - MASK_OPACITY) * np.arange(256)[:, None] + MASK_OPACITY * np.array(colour)).astype(
        np.uint8
    )
    for colour in COLOURS
}
"""Colour of a mask -> [256, 3]: each channel of a pixel below it, as it is seen."""
_CHANNELS = np.arange(3)
READABLE_SHORT_SIDE = 240
"""Frames are enlarged by a whole factor until their shorter side has this many pixels."""
Colours = dict[Any, int]
"""Number of a track (`Detection.query`) -> its place in `COLOURS`, modulo their count."""


class Track(Protocol):
    """What can be drawn; `Detection` and `DrawnTrack` are such."""

    @property
    def category_id(self) -> int:
        """As in the results file."""

    @property
    def score(self) -> float:
        """0..1."""

    @property
    def segmentations(self) -> Sequence[RLE | None]:
        """T compressed masks."""


@dataclass(frozen=True, kw_only=True)
class DrawnTrack:
    """An entry of a results file. Boxes are taken from the masks when there are none."""

    category_id: int
    score: float
    segmentations: Sequence[RLE | None]
    boxes_xyxy: np.ndarray | None = None
    query: Hashable = None
    """What `Colours` know the track by; None for no particular colour."""


def tracks_from_entries(entries: Iterable[Mapping[str, Any]]) -> list[DrawnTrack]:
    """Results of one video -> tracks; masks are checked, since the decoder trusts its input.

    Raises: ValueError when an entry lacks a field or a mask is broken.
    """
    tracks = []
    for entry in entries:
        try:
            track = DrawnTrack(
                category_id=int(entry["category_id"]),
                score=float(entry["score"]),
                segmentations=tuple(mask or None for mask in entry["segmentations"]),
            )
            if not all(m is None or isinstance(m["counts"], str) for m in track.segmentations):
                raise TypeError("masks must be compressed run lengths")
            build_tracks([list(track.segmentations)], None)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"a result of video {entry.get('video_id')} has no proper score, category_id or "
                f"segmentations ({error})"
            ) from None
        tracks.append(track)
    return tracks


def best_tracks(tracks: Iterable[Track], min_score: float) -> list[Track]:
    """Tracks worth drawing, best first; of those with the very same masks only the best label."""
    kept: dict[str, Track] = {}
    for track in sorted(tracks, key=lambda t: -t.score):
        if track.score < min_score or all(m is None for m in track.segmentations):
            continue
        kept.setdefault("|".join(m["counts"] if m else "" for m in track.segmentations), track)
    return list(kept.values())


def overlaps(a: Sequence[Track], b: Sequence[Track]) -> np.ndarray:
    """[len(a), len(b)] IoU of tracks over all frames together."""
    one, other = (build_tracks([list(t.segmentations) for t in some], None) for some in (a, b))
    return track_ious(one, other)


def draw_video(
    frames: Iterable[np.ndarray],
    instances: Iterable[Track],
    names: Mapping[int, str],
    min_score: float = 0.0,
    colours: Colours | None = None,
) -> list[np.ndarray]:
    """Draw tracks on the frames of their video.

    Args:
        frames: T uint8 RGB frames [h, w, 3].
        instances: `VideoPrediction.detections`, or `tracks_from_entries` of a results file.
        names: category id -> name; others are called "class 12".
        min_score: tracks below it are left out.
        colours: what colour a track has; new ones are entered. Keep it from call to call (results
            of a stream) for colours that stay. Without it the best track has the first colour.

    Returns: T new uint8 frames, enlarged if they are too small for readable labels.
    """
    return list(iterate_drawn(frames, instances, names, min_score, colours))


def iterate_drawn(
    frames: Iterable[np.ndarray],
    instances: Iterable[Track],
    names: Mapping[int, str],
    min_score: float = 0.0,
    colours: Colours | None = None,
) -> Iterator[np.ndarray]:
    """`draw_video`, one frame at a time."""
    tracks = best_tracks(instances, min_score)
    chosen = [COLOURS[number % len(COLOURS)] for number in _colour_numbers(tracks, colours)]
    labels = [f"{names.get(t.category_id, f'class {t.category_id}')} {t.score:.2f}" for t in tracks]
    for index, frame in enumerate(frames):
        yield _draw_frame(frame, index, tracks, labels, chosen)


def _colour_numbers(tracks: Sequence[Track], colours: Colours | None) -> list[int]:
    if colours is None:
        return list(range(len(tracks)))
    keys = [getattr(track, "query", None) for track in tracks]
    return [
        number if key is None else colours.setdefault(key, _next_free(colours))
        for number, key in enumerate(keys)
    ]


def _next_free(colours: Colours) -> int:
    taken = set(colours.values())
    return next(number for number in range(len(taken) + 1) if number not in taken)


def _draw_frame(
    frame: np.ndarray,
    index: int,
    tracks: Sequence[Track],
    labels: Sequence[str],
    chosen: Sequence[tuple[int, int, int]],
) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = -(-READABLE_SHORT_SIDE // min(height, width))
    line = max(1, round(scale * min(height, width) / 300))
    canvas = frame.copy()
    if scale > 1:
        size = (width * scale, height * scale)
        canvas = np.array(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    contours, boxes = [], []
    for number in reversed(range(len(tracks))):  # the best on top
        mask = _mask(tracks[number], index, (height, width))
        part = None if mask is None else _part_with_pixels(mask)
        if mask is None or part is None:
            continue
        # Only what the mask covers is looked at, with a margin that shows where it ends.
        inside = mask[part].repeat(scale, axis=0).repeat(scale, axis=1)
        place = canvas[tuple(slice(s.start * scale, s.stop * scale) for s in part)]
        pixels = place[inside]
        place[inside] = _TINTS[chosen[number]][pixels, _CHANNELS]
        contours.append((place, _contour(inside, line), chosen[number]))
        boxes.append((number, _box(tracks[number], index, mask, scale)))
    for place, contour, colour in contours:  # after all fills, which would tint them
        place[contour] = colour

    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    for number, box in boxes:
        pen.rectangle(box.tolist(), outline=chosen[number], width=line)
    _draw_labels(
        pen, picture.size, [(chosen[number], box, labels[number]) for number, box in boxes[::-1]]
    )
    return np.asarray(picture)


def _mask(track: Track, index: int, size: tuple[int, int]) -> np.ndarray | None:
    if index >= len(track.segmentations):
        raise ValueError(
            f"the results have masks for {len(track.segmentations)} frames but the video has more; "
            "draw them on the frames they were made from"
        )
    segmentation = track.segmentations[index]
    if segmentation is None:
        return None
    if tuple(segmentation["size"]) != size:
        raise ValueError(
            f"a mask is {tuple(segmentation['size'])} (height, width) but frame {index} is {size}; "
            "draw results on the frames they were made from"
        )
    return decode_mask(segmentation)


def _part_with_pixels(mask: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns that the mask covers, and where there is one, a free one on each side; None
    for an empty mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    margins = zip((rows, columns), mask.shape, strict=True)
    down, right = (slice(max(0, i[0] - 1), min(int(i[-1]) + 2, size)) for i, size in margins)
    return down, right


def _contour(mask: np.ndarray, thickness: int) -> np.ndarray:
    """Pixels of the mask within `thickness` steps of its outside; the frame's edge is inside."""
    core = mask
    for _ in range(thickness):
        padded = np.pad(core, 1, mode="edge")
        core = core & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return mask & ~core


def _box(track: Track, index: int, mask: np.ndarray, scale: int) -> np.ndarray:
    """[4] integer pixels of the canvas, (x0, y0, x1, y1), last pixel included."""
    boxes = getattr(track, "boxes_xyxy", None)
    if boxes is None:
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        first, last = np.array([xs[0], ys[0]]), np.array([xs[-1], ys[-1]])
        return np.concatenate([first * scale, last * scale + scale - 1])
    limit = np.array([mask.shape[1] * scale - 1, mask.shape[0] * scale - 1] * 2)
    box = np.clip(np.round(np.asarray(boxes[index]) * scale), 0, limit).astype(int)
    return np.concatenate([box[:2], np.maximum(box[:2], box[2:])])


def _draw_labels(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    labels: list[tuple[tuple[int, int, int], np.ndarray, str]],
) -> None:
    """Labels at the top left of their boxes, inside the frame, beside each other where possible."""
    width, height = size
    font = label_font(min(28, max(12, round(min(size) / 24))))
    row = label_height(font)
    taken: list[tuple[int, int, int]] = []
    for colour, box, text in labels:
        text_width = int(font.getlength(text)) + 7
        left = int(max(0, min(box[0], width - text_width)))
        top = max(0, int(box[1]) - row)
        tops = sorted(range(top % row, max(1, height - row + 1), row), key=lambda y: abs(y - top))
        top = next((y for y in tops if not _overlaps(left, y, text_width, row, taken)), top)
        taken.append((left, top, text_width))
        pen.rectangle([left, top, left + text_width - 1, top + row - 1], fill=colour)
        luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
        pen.text(
            (left + 3, top + 1), text, font=font, fill=(0, 0, 0) if luminance > 110 else "white"
        )


def _overlaps(
    left: int, top: int, width: int, height: int, taken: list[tuple[int, int, int]]
) -> bool:
    return any(
        left < x + w and x < left + width and top < y + height and y < top + height
        for x, y, w in taken
    )


@cache
def label_height(font: ImageFont.FreeTypeFont) -> int:
    """Pixels of a label's row."""
    return int(font.getbbox("Ág|")[3]) + 3


@cache
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it: more scripts than PIL's own font has."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)
