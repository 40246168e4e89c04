"""Annotations or results as CVAT's XML 1.1, to be uploaded to the task that the frames are in.

Masks are written as shapes of images: CVAT reads such a file into tasks of videos, too, while of a
track of masks it would take the first mask alone. All masks of an object have one group. Or they
are written as tracks of polygons, a track for every part, that CVAT shows and edits as tracks.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from seqformer.files import make_folder, write_text
from seqformer.tools.exchange.corrections import GivenVideo
from seqformer.tools.exchange.cvat_shapes import runs_of
from seqformer.tools.exchange.frame_files import safe_names
from seqformer.tools.exchange.outlines import Point, outlines

logger = logging.getLogger(__name__)

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_cvat(
    videos: Sequence[GivenVideo], labels: Sequence[str], output: Path, as_tracks: bool = False
) -> list[Path]:
    """Write a file per video into a folder.

    Args:
        as_tracks: of polygons, instead of masks.

    Returns: the files.
    Raises: ValueError for a label that XML cannot hold; WriteError.
    """
    make_folder(output, "output folder")
    files = []
    crowds = 0
    for video, name in zip(videos, safe_names([v.name for v in videos]), strict=True):
        path = output / f"{name}.xml"
        write_text(path, "\n".join(_lines(video, labels, as_tracks)) + "\n")
        files.append(path)
        crowds += sum(instance.is_crowd for instance in video.instances)
    if crowds:
        logger.warning(
            "CVAT takes no attribute that a label does not have: that %d objects are crowds is not "
            "written",
            crowds,
        )
    return files


def _lines(video: GivenVideo, labels: Sequence[str], as_tracks: bool) -> Iterator[str]:
    height, width = video.size
    yield '<?xml version="1.0" encoding="utf-8"?>'
    yield "<annotations>"
    yield "  <version>1.1</version>"
    yield "  <meta>"
    yield "    <task>"
    yield f"      <name>{escape(_sound(video.name))}</name>"
    yield f"      <size>{len(video.names)}</size>"
    yield f"      <start_frame>{video.numbers[0]}</start_frame>"
    yield f"      <stop_frame>{video.numbers[-1]}</stop_frame>"
    step = video.numbers[1] - video.numbers[0] if len(video.numbers) > 1 else 1
    yield f"      <frame_filter>{f'step={step}' if step > 1 else ''}</frame_filter>"
    yield "      <labels>"
    for label in labels:
        yield f"        <label><name>{escape(_sound(label))}</name></label>"
    yield "      </labels>"
    yield f"      <original_size><width>{width}</width><height>{height}</height></original_size>"
    yield "    </task>"
    yield "  </meta>"
    yield from _tracks(video) if as_tracks else _images(video)
    yield "</annotations>"


def _images(video: GivenVideo) -> Iterator[str]:
    height, width = video.size
    for t, (number, name) in enumerate(zip(video.numbers, video.names, strict=True)):
        quoted = quoteattr(_sound(name))
        yield f'  <image id="{number}" name={quoted} width="{width}" height="{height}">'
        for group, instance in enumerate(video.instances, start=1):
            mask = instance.mask(t)
            if mask is None:
                continue
            runs, (left, top, box_width, box_height) = runs_of(mask)
            yield (
                f'    <mask label={quoteattr(_sound(instance.label))} source="file" '
                f'occluded="{int(instance.occluded[t])}" rle="{", ".join(map(str, runs))}" '
                f'left="{left}" top="{top}" width="{box_width}" height="{box_height}" '
                f'z_order="0" group_id="{group}">'
            )
            yield "    </mask>"
        yield "  </image>"


def _tracks(video: GivenVideo) -> Iterator[str]:
    number = 0
    for group, instance in enumerate(video.instances, start=1):
        masks = [instance.mask(t) for t in range(len(video.numbers))]
        rings = [[] if mask is None else outlines(mask) for mask in masks]
        for part in range(max(map(len, rings))):
            label = quoteattr(_sound(instance.label))
            yield f'  <track id="{number}" label={label} source="file" group_id="{group}">'
            number += 1
            last: list[Point] = []
            for t, frame in enumerate(video.numbers):
                if part < len(rings[t]):
                    last = rings[t][part]
                    yield _polygon(frame, last, False, instance.occluded[t])
                elif last:  # from here on it is absent
                    yield _polygon(frame, last, True, False)
                    last = []
            yield "  </track>"


def _polygon(frame: int, ring: Sequence[Point], outside: bool, occluded: bool) -> str:
    points = ";".join(f"{x}.00,{y}.00" for x, y in ring)
    return (
        f'    <polygon frame="{frame}" keyframe="1" outside="{int(outside)}" '
        f'occluded="{int(occluded)}" points="{points}" z_order="0"></polygon>'
    )


def _sound(text: str) -> str:
    if _FORBIDDEN.search(text):
        raise ValueError(f"{text!r:.40} has a character that XML cannot hold; rename it")
    return text
