"""Annotations against their videos, categories and masks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.masks import Size, is_size, parse_mask
from seqformer.annotations.polygons import bounds
from seqformer.annotations.rules import get_box, is_crowd, is_id, is_number
from seqformer.annotations.run_lengths import RLE, decode_mask, encode_masks, read_runs
from seqformer.tools.check_videos import CheckedVideo, objects, size_text
from seqformer.tools.findings import Findings
from seqformer.tools.references import Ids

BOX_TOLERANCE = 2.0
"""Pixels by which a box may differ from that of its mask."""
AREA_TOLERANCE = 0.02
"""Share by which an area may differ from that of its mask."""


def mask_sizes(content: dict[str, Any]) -> dict[str, set[Size]]:
    """By the text of the video id, the sizes that its run-length masks name."""
    sizes: dict[str, set[Size]] = {}
    for entry in content["annotations"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("segmentations"), list):
            continue
        for mask in entry["segmentations"]:
            size = mask.get("size") if isinstance(mask, dict) else None
            if isinstance(size, list) and len(size) == 2 and is_size(*size):
                sizes.setdefault(str(entry.get("video_id")), set()).add(tuple(size))
    return sizes


def check_annotations(
    content: dict[str, Any],
    videos: dict[int, CheckedVideo],
    references: dict[str, tuple[Ids, Collection[int]]],
    findings: Findings,
) -> list[dict[str, Any]]:
    """The annotations that stay, mended.

    Args:
        videos: those that stay.
        references: for "video_id" and "category_id", how to find an id, and all that are listed;
            annotations of a video that goes, go with it.
    """
    entries = objects(content, "annotations", findings)
    numbers: list[Any] = [entry.get("id") for _, entry in entries]
    free = max((n for n in numbers if is_id(n)), default=0)
    used: set[int] = set()
    kept = []
    for where, given in entries:
        entry = _with_references(where, given, references, findings)
        if entry is None or entry["video_id"] not in videos:
            continue
        mended = _check_tracks(where, entry, videos[entry["video_id"]], findings)
        if mended is None:
            continue
        number: Any = entry.get("id")
        if not is_id(number) or number in used:
            free += 1
            is_harmless = "id" not in entry or is_id(number)
            is_repeated = is_id(number) and number in used
            problem = "has that of an earlier one" if is_repeated else f"has id {number!r:.40}"
            kind = "no-id" if is_harmless else "bad-id"
            findings.add(kind, where, problem, f"given the id {free}")
            mended["id"] = number = free
        used.add(number)
        mended["iscrowd"] = _check_crowd(where, entry, findings)
        kept.append(mended)
    return kept


def _with_references(
    where: str,
    entry: dict[str, Any],
    references: dict[str, tuple[Ids, Collection[int]]],
    findings: Findings,
) -> dict[str, Any] | None:
    """The annotation with ids that are listed; None if it refers to none."""
    for key, (ids, listed) in references.items():
        value = entry.get(key)
        number = ids.find(value, listed)
        kind = key.removesuffix("_id")
        if not is_id(value):
            fix = "removed" if number is None else f"set to {number}"
            findings.add("bad-id", where, f"has {key} {value!r:.40}", fix)
        elif number is None:
            findings.add(f"unknown-{kind}", where, f"is of {kind} {value!r:.40}", "removed")
        if number is None:
            return None
        entry = {**entry, key: number}
    return entry


def _check_crowd(where: str, entry: dict[str, Any], findings: Findings) -> int:
    value = entry.get("iscrowd", 0)
    try:
        meaning = int(is_crowd(value, where))
    except ValueError:
        findings.add("bad-crowd", where, f"has iscrowd {value!r:.40}", "set to 0")
        return 0
    if type(value) not in (int, bool):
        findings.add("odd-crowd", where, f"has iscrowd {value!r:.40}", f"set to {meaning}")
    return meaning


def _check_tracks(
    where: str, entry: dict[str, Any], video: CheckedVideo, findings: Findings
) -> dict[str, Any] | None:
    """The annotation with lists that fit its video; None if nothing is left of it."""
    masks = entry.get("segmentations")
    if not isinstance(masks, list):
        problem = f"has no list of segmentations, its video {video.num_listed} frames"
        findings.add("list-length", where, problem, "removed")
        return None
    if len(masks) != video.num_listed:
        problem = f"has {len(masks)} segmentations, its video {video.num_listed} frames"
        findings.add("list-length", where, problem, "filled up with null, or cut at the last frame")
        masks = [*masks[: video.num_listed], *[None] * (video.num_listed - len(masks))]
    rles: dict[int, RLE] = {}
    mended: list[Any] = [None] * len(masks)
    for t in video.kept:
        mended[t], rle = _check_mask(f"{where}, frame {t}", masks[t], video, findings)
        if rle is not None:
            rles[t] = rle
    if not rles:
        findings.add("no-mask", where, "has no mask in any frame", "removed")
        return None
    entry = {**entry, "segmentations": masks}
    lists = {"segmentations": mended}
    frames = list(rles)
    areas = dict(zip(frames, coco_mask.area(list(rles.values())).tolist(), strict=True))
    boxes = dict(zip(frames, coco_mask.toBbox(list(rles.values())).tolist(), strict=True))
    lists["bboxes"] = _check_boxes(where, entry, video, boxes, findings)
    lists["areas"] = _check_areas(where, entry, video, areas, findings)
    return {**entry, **{key: [values[t] for t in video.kept] for key, values in lists.items()}}


def _check_mask(
    where: str, mask: Any, video: CheckedVideo, findings: Findings
) -> tuple[Any, RLE | None]:
    """What is to be written, and the same as run lengths; None if the instance is absent."""
    size = video.size
    try:
        mask_size, text = parse_mask(mask, video.listed_size or size)
        if mask_size is None:
            return None, None
        read_runs([text], [mask_size[0] * mask_size[1]])
    except InvalidMaskError as error:
        findings.add("bad-mask", where, f"the mask {error}", "set to null")
        return None, None
    rle = {"size": list(mask_size), "counts": text}
    is_polygons = isinstance(mask, list)
    if mask_size != size:
        if not is_polygons and mask_size != video.listed_size:
            problem = f"the mask has {size_text(mask_size)} pixels, the video {size_text(size)}"
            findings.add("mask-size", where, problem, "scaled to the size of the video")
        mask = rle = _scaled(rle, size)
        is_polygons = False
    if not coco_mask.area(rle):
        findings.add("empty-mask", where, "the mask has no pixels", "set to null")
        return None, None
    if is_polygons:
        x0, y0, x1, y1 = bounds(mask)
        if min(x0, y0) < -1 or x1 > size[1] + 1 or y1 > size[0] + 1:
            problem = f"a polygon reaches ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"
            findings.add("outside", where, problem, "cut off at the border of the frame")
            return rle, rle
    return mask, rle


def _scaled(rle: RLE, size: Size) -> RLE:
    """A mask at another size: of every pixel, the one nearest to its centre."""
    decoded = decode_mask(rle)
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(size, decoded.shape, strict=True)
    )
    return encode_masks(decoded[rows[:, None], columns][..., None])[0]


def _check_boxes(
    where: str,
    entry: dict[str, Any],
    video: CheckedVideo,
    expected: dict[int, list[float]],
    findings: Findings,
) -> list[Any]:
    boxes = entry.get("bboxes")
    if not isinstance(boxes, list) or len(boxes) != video.num_listed:
        count = len(boxes) if isinstance(boxes, list) else "no list of"
        problem = f"has {count} bboxes, its video {video.num_listed} frames"
        findings.add("bad-box", where, problem, "boxes made from the masks")
        return [expected.get(t) for t in range(video.num_listed)]
    mended: list[Any] = [None] * len(boxes)
    for t in video.kept:
        box, place = boxes[t], f"{where}, frame {t}"
        if t not in expected:
            if box and not entry["segmentations"][t]:  # else it has been said: the mask goes
                findings.add("bad-box", place, "has a box but no mask", "set to null")
            continue
        mended[t] = box
        if not _is_box(box):
            findings.add("bad-box", place, f"has box {box!r:.60}", "box made from the mask")
            mended[t] = expected[t]
        elif _distance(box, expected[t]) > BOX_TOLERANCE:
            problem = f"has box {_numbers(box)}, the mask {_numbers(expected[t])}"
            findings.add("box-mismatch", place, problem, "box made from the mask")
            mended[t] = expected[t]
    return mended


def _check_areas(
    where: str,
    entry: dict[str, Any],
    video: CheckedVideo,
    expected: dict[int, int],
    findings: Findings,
) -> list[Any]:
    areas = entry.get("areas")
    from_masks = [expected.get(t) for t in range(video.num_listed)]
    if not isinstance(areas, list) or len(areas) != video.num_listed:
        problem = "has no areas" if areas is None else "has areas that are not one per frame"
        findings.add("area-mismatch", where, problem, "areas made from the masks")
        return from_masks
    wrong = [
        t
        for t, area in expected.items()
        if not is_number(areas[t]) or abs(areas[t] - area) > max(2, AREA_TOLERANCE * area)
    ]
    for t in wrong[:1]:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        problem = f"frame {t} has area {areas[t]!r:.40}, the mask {expected[t]}{more}"
        findings.add("area-mismatch", where, problem, "areas made from the masks")
    if wrong:
        return from_masks
    return [area if t in expected else None for t, area in enumerate(areas)]


def _is_box(box: Any) -> bool:
    numbers = get_box(box)
    return numbers is not None and numbers[2] > 0 and numbers[3] > 0


def _distance(box: list[float], other: list[float]) -> float:
    """The largest distance between corresponding sides, in pixels."""
    near = (box[i] - other[i] for i in (0, 1))
    far = (box[i] + box[i + 2] - other[i] - other[i + 2] for i in (0, 1))
    return max(map(abs, (*near, *far)))


def _numbers(box: list[float]) -> str:
    return "[" + ", ".join(f"{number:g}" for number in box) + "]"
