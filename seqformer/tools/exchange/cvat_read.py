"""An export of CVAT -> its videos: "CVAT for video 1.1" and "CVAT for images 1.1".

What makes an object: a track; and shapes and tracks of one group and label, because CVAT has no
tracks of masks and writes each mask as a track of its own. Its own COCO export joins groups in the
same way.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from seqformer.annotations.errors import InvalidMaskError
from seqformer.tools.exchange.archive import Archive
from seqformer.tools.exchange.cvat_shapes import draw, fill_gaps
from seqformer.tools.exchange.cvat_xml import CvatFile, CvatShape, CvatTask, read_cvat_xml
from seqformer.tools.exchange.drawn_videos import DrawnFrame, DrawnVideo
from seqformer.tools.exchange.frame_files import picture_size

logger = logging.getLogger(__name__)

CROWD_ATTRIBUTES = ("iscrowd", "is_crowd", "crowd")
MAX_FRAMES = 1_000_000
"""Of a video; more is a mistake."""
Value = TypeVar("Value")
TRACK_ATTRIBUTES = ("track_id", "instance_id", "object_id")
"""Attributes of a label by which shapes without a group are joined."""


@dataclass(frozen=True)
class CvatOptions:
    """How shapes become objects."""

    take_boxes: bool = False
    """Whether boxes are objects, with all their pixels."""
    join_groups: bool = True
    cut_covered: bool = False
    """Whether what a shape of higher z order covers is cut off."""


@dataclass
class _Drawn:
    """The shapes of one frame, to be drawn in their order."""

    shapes: list[tuple[Hashable, CvatShape]] = field(default_factory=list)


def read_cvat(
    archive: Archive, name: str, options: CvatOptions, scratch: Path
) -> tuple[list[DrawnVideo], list[str]]:
    """The videos of an XML file of an export, and the labels of the task in their order.

    Args:
        name: of the XML file in the archive.
        scratch: folder where a picture may be written for a moment.

    Raises: ValueError naming the file and what is missing or wrong.
    """
    where = name if archive.path.name == name else f"{archive.path}, {name}"
    file = read_cvat_xml(archive.read(name), where)
    is_known = any(task.stop is not None for task in file.tasks) or archive.images()
    if not (file.images or file.tracks or (file.tasks and is_known)):
        raise ValueError(f"{where} has no frames and no tracks; is it the export of an empty task?")
    videos = _with_images(file, archive) if file.images else _with_tracks(file, archive, scratch)
    counts: Counter[str] = Counter(file.left_out)
    for video, task in videos:
        _add_shapes(video, task, file, options, counts, where)
    _tell(counts, where)
    return [video for video, _ in videos], file.labels


def _with_images(file: CvatFile, archive: Archive) -> list[tuple[DrawnVideo, str]]:
    """An export for images: a video for every task, and for every folder of its frames."""
    videos: dict[tuple[str, str], DrawnVideo] = {}
    names = {task.task_id: task.name for task in file.tasks}
    for image in sorted(file.images, key=lambda image: (image.task, image.number)):
        folder = str(PurePosixPath(image.name.replace("\\", "/")).parent)
        key = image.task, folder
        if key not in videos:
            task_name = names.get(image.task) or _only(list(names.values())) or archive.path.stem
            title = task_name if folder == "." else folder
            videos[key] = DrawnVideo(title, image.size, [])
        video = videos[key]
        if image.size != video.size:
            raise ValueError(
                f"{archive.path}: the frame {image.name} has {image.size[0]} x {image.size[1]} "
                f"pixels, the first of its video {video.size[0]} x {video.size[1]}; all frames of "
                "a video must have one size"
            )
        video.frames.append(DrawnFrame(image.number, image.name, archive.find_image(image.name)))
    return [(video, task) for (task, _), video in videos.items()]


def _with_tracks(file: CvatFile, archive: Archive, scratch: Path) -> list[tuple[DrawnVideo, str]]:
    """An export for video: a video for every task."""
    videos = []
    tasks = file.tasks or [CvatTask()]
    for task in tasks:
        tracks = [t for t in file.tracks if len(tasks) == 1 or t.task == task.task_id]
        shown = [s.frame for t in tracks for s in t.shapes if not s.outside]
        images = archive.images()
        stop = task.stop
        if stop is None:
            stop = max([*shown, task.start])
            if not file.tasks and images:
                stop = len(images) - 1
        last = min(stop, task.start + MAX_FRAMES * task.step)
        numbers = list(range(task.start, last + 1, task.step))
        if not 0 < len(numbers) <= MAX_FRAMES:
            raise ValueError(
                f"{archive.path} says that a task has the frames {task.start} to {stop}"
            )
        frames = [DrawnFrame(n, f"frame_{n:06d}", None) for n in numbers]
        found = [archive.find_image(frame.name) for frame in frames]
        if not any(found) and images:
            if len(images) != len(numbers):
                raise ValueError(
                    f"{archive.path} has {len(images)} pictures, but the task "
                    f"{task.name or task.task_id!r} {len(numbers)} frames; export the task with "
                    "its images and without others"
                )
            found = list(images)
            frames = [
                DrawnFrame(n, i.removeprefix("images/"), None)
                for n, i in zip(numbers, images, strict=True)
            ]
        frames = [
            DrawnFrame(frame.number, frame.name, image)
            for frame, image in zip(frames, found, strict=True)
        ]
        size = task.size
        first = next((image for image in found if image), None)
        if size is None and first is not None:
            size = picture_size(archive, first, scratch)
        if size is None:
            raise ValueError(
                f"{archive.path} does not say how large the frames of {task.name or 'the task'} "
                "are; export it with its images"
            )
        title = PurePosixPath(task.source).stem or task.name or archive.path.stem
        videos.append((DrawnVideo(title, size, frames), task.task_id))
    return videos


def _add_shapes(
    video: DrawnVideo,
    task_id: str,
    file: CvatFile,
    options: CvatOptions,
    counts: Counter[str],
    where: str,
) -> None:
    position = {frame.number: t for t, frame in enumerate(video.frames)}
    drawn: dict[int, _Drawn] = {}
    tasks = {task.task_id: task for task in file.tasks}
    task = tasks.get(task_id) or _only(list(tasks.values())) or CvatTask()
    numbers = range(video.frames[0].number, video.frames[-1].number + 1, task.step)
    for number, track in enumerate(file.tracks):
        if len(file.tasks) > 1 and track.task != task_id:
            continue
        shapes = sorted(track.shapes, key=lambda shape: shape.frame)
        by_frame = {shape.frame: shape for shape in shapes}  # the last of a frame holds
        shapes, num_filled = fill_gaps(list(by_frame.values()), numbers)
        counts["filled"] += num_filled
        visible = [shape for shape in shapes if not shape.outside]
        joined = _key_of(visible[0], options) if visible else None
        if joined is None and len(visible) == 1 < len(video.frames):
            counts["unlinked"] += visible[0].kind == "mask"
        key: Hashable = joined or ("track", number)
        for shape in shapes:
            if shape.outside:
                continue
            if shape.frame not in position:
                counts["outside frames"] += 1
                continue
            drawn.setdefault(position[shape.frame], _Drawn()).shapes.append((key, shape))
    for image in file.images:
        if image.task != task_id or image.number not in position:
            continue
        if video.frames[position[image.number]].name != image.name:
            continue
        for number, shape in enumerate(image.shapes):
            key = _key_of(shape, options) or ("shape", image.number, number)
            counts["unlinked"] += key[0] == "shape"
            drawn.setdefault(position[image.number], _Drawn()).shapes.append((key, shape))
    for t in sorted(drawn):
        _draw_frame(video, t, drawn[t].shapes, options, counts, where)


def _key_of(shape: CvatShape, options: CvatOptions) -> tuple[str, str, Hashable] | None:
    """What joins shapes of different frames; None if nothing does."""
    if shape.group and options.join_groups:
        return ("group", shape.label, shape.group)
    for name in TRACK_ATTRIBUTES:
        if shape.attributes.get(name):
            return ("attribute", shape.label, shape.attributes[name])
    return None


def _draw_frame(
    video: DrawnVideo,
    t: int,
    shapes: Sequence[tuple[Hashable, CvatShape]],
    options: CvatOptions,
    counts: Counter[str],
    where: str,
) -> None:
    taken = []
    for key, shape in shapes:
        if shape.kind == "box" and not options.take_boxes:
            counts["box"] += 1
            continue
        counts["ellipses taken"] += shape.kind == "ellipse"
        taken.append((video.instance(key, shape.label), shape))
    covered = np.zeros(video.size, bool)
    # From the top to the bottom; of equal z order the later one is on top.
    for i in sorted(range(len(taken)), key=lambda i: (-taken[i][1].z_order, -i)):
        instance, shape = taken[i]
        try:
            mask = draw(shape, video.size)
        except InvalidMaskError as error:
            raise ValueError(
                f"{where}: the {shape.kind} of {shape.label} in frame {shape.frame} {error}"
            ) from None
        if options.cut_covered:
            mask, covered = mask & ~covered, covered | mask
        instance.add(t, mask)
        if shape.occluded:
            instance.occluded.add(t)
        if any(shape.attributes.get(a, "").lower() in ("true", "1") for a in CROWD_ATTRIBUTES):
            instance.is_crowd = True


def _tell(counts: Counter[str], where: str) -> None:
    """One warning for each kind of thing that is not taken as it was drawn."""
    words = {
        "box": "boxes have no mask and are left out (--boxes takes all their pixels)",
        "polyline": "polylines have no area and are left out",
        "points": "points have no area and are left out",
        "cuboid": "cuboids have no area and are left out",
        "skeleton": "skeletons have no area and are left out",
        "tag": "tags of whole frames are left out",
        "filled": "shapes between two keyframes are not in the file; they are moved evenly",
        "unlinked": (
            "shapes have neither a group nor an attribute track_id, so each is an object of one "
            "frame; give the shapes of an object one group, or export tracks"
        ),
        "outside frames": "shapes are in frames that the task does not have, and are left out",
    }
    for kind, text in words.items():
        if counts[kind]:
            logger.warning("%s: %d %s", where, counts[kind], text)
    if counts["ellipses taken"]:
        logger.info("%s: %d ellipses are taken as masks", where, counts["ellipses taken"])


def _only(values: list[Value]) -> Value | None:
    return values[0] if len(values) == 1 else None
