"""One picture of a whole run: a few videos beside one another, as they are and with their results.

Masks are filled in colours unlike those of the objects below them, of several results for one
object only the best is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from seqformer.annotations.run_lengths import decode_mask
from seqformer.visualization.drawing import COLOURS, Track, best_tracks, label_font, overlaps

Video = tuple[Sequence[np.ndarray], Sequence[Track]]
"""Frames uint8 RGB [h, w, 3], and results."""
OPACITY = 0.8
SAME_OBJECT_IOU = 0.5
"""Results that overlap more are the same object."""
SCALE, GAP, TITLE = 2, 6, 20
"""Pixels of the picture per pixel of a frame, between frames, and of a line above them."""


def clear_tracks(tracks: Sequence[Track], min_score: float) -> list[Track]:
    """The results that are shown: from `min_score` on, the best of each object, best first."""
    kept: list[Track] = []
    for track in best_tracks(tracks, min_score):
        if not kept or overlaps([track], kept).max() < SAME_OBJECT_IOU:
            kept.append(track)
    return kept


def most_objects(results: Sequence[Sequence[Track]], num_videos: int = 3) -> list[int]:
    """Which videos to show, in their own order: with most objects, and of these the surest."""
    ranks = [(-len(t), -min((one.score for one in t), default=0.0)) for t in results]
    return sorted(sorted(range(len(results)), key=lambda i: (*ranks[i], i))[:num_videos])


def showcase(videos: Sequence[Video], names: Mapping[int, str]) -> list[np.ndarray]:
    """The frames of a moving picture: one column a video, as it is above, with its results below.

    Args:
        videos: all of the same frame size, with `clear_tracks` of their results.
        names: category id -> name.

    Returns: uint8 RGB frames, as many as the shortest video has; none without videos.
    """
    columns = [
        _column(
            frames, tracks, [names.get(t.category_id, f"class {t.category_id}") for t in tracks]
        )
        for frames, tracks in videos
    ]
    pictures = []
    for frames_at_once in zip(*columns, strict=False):
        gap = np.full((frames_at_once[0].shape[0], GAP, 3), 255, np.uint8)
        row = [frames_at_once[0]]
        for frame in frames_at_once[1:]:
            row += [gap, frame]
        pictures.append(np.concatenate(row, axis=1))
    return pictures


def _column(
    frames: Sequence[np.ndarray], tracks: Sequence[Track], labels: Sequence[str]
) -> list[np.ndarray]:
    """Frames above, results below."""
    chosen = _unlike_colours(frames, tracks)
    texts = [f"{label} {track.score:.2f}" for track, label in zip(tracks, labels, strict=True)]
    pictures = []
    for index, frame in enumerate(frames):
        masks = [_mask(track, index) for track in tracks]
        drawn = _filled(frame, masks, chosen, texts)
        gap = np.full((GAP, drawn.shape[1], 3), 255, np.uint8)
        pictures.append(np.concatenate([_enlarged(frame), gap, drawn]))
    return pictures


def _unlike_colours(
    frames: Sequence[np.ndarray], tracks: Sequence[Track]
) -> list[tuple[int, int, int]]:
    """For every track the colour of the scheme that is farthest from what it covers, from what
    surrounds it and from the colours before it."""
    around = np.mean([frame.reshape(-1, 3).mean(axis=0) for frame in frames], axis=0)
    chosen: list[tuple[int, int, int]] = []
    for track in tracks:
        covered = [
            frame[mask]
            for index, frame in enumerate(frames)
            if (mask := _mask(track, index)) is not None
        ]
        pixels = np.concatenate(covered) if covered else around[None]
        avoided = [around, *_main_colours(pixels), *map(np.array, chosen)]
        free = [colour for colour in COLOURS if colour not in chosen] or list(COLOURS)
        chosen.append(max(free, key=lambda c: min(np.linalg.norm(a - c) for a in avoided)))
    return chosen


def _main_colours(pixels: np.ndarray) -> list[np.ndarray]:
    """The means of the brighter and of the darker pixels: the objects are striped."""
    light = pixels.mean(axis=1)
    halves = (pixels[light >= np.median(light)], pixels[light <= np.median(light)])
    return [half.mean(axis=0) for half in halves]


def _mask(track: Track, index: int) -> np.ndarray | None:
    segmentation = track.segmentations[index] if index < len(track.segmentations) else None
    return None if segmentation is None else decode_mask(segmentation)


def _enlarged(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    size = (width * SCALE, height * SCALE)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def _filled(
    frame: np.ndarray,
    masks: Sequence[np.ndarray | None],
    colours: Sequence[tuple[int, int, int]],
    texts: Sequence[str],
) -> np.ndarray:
    """The frame, a little faded, with filled masks and, on each, its label."""
    canvas = (0.6 * _enlarged(frame) + 0.4 * 255).astype(np.uint8)
    for mask, colour in reversed(list(zip(masks, colours, strict=True))):  # the best on top
        if mask is not None:
            area = mask.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
            canvas[area] = (1 - OPACITY) * canvas[area] + OPACITY * np.array(colour)
    picture = Image.fromarray(canvas)
    pen, font = ImageDraw.Draw(picture), label_font(14)
    for mask, text in zip(masks, texts, strict=True):
        if mask is None or not mask.any():
            continue
        ys, xs = np.nonzero(mask)
        width = int(font.getlength(text)) + 6
        left = int(np.clip(xs.mean() * SCALE - width / 2, 0, picture.width - width))
        top = int(np.clip(ys.mean() * SCALE - TITLE / 2, 0, picture.height - TITLE))
        pen.rectangle([left, top, left + width, top + TITLE - 1], fill=(20, 20, 20))
        pen.text((left + 3, top + 2), text, font=font, fill="white")
    return np.asarray(picture)
