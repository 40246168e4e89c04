"""Annotations against their videos, categories and masks."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any

from pycocotools import mask as coco_mask

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.run_lengths import read_runs
from seqformer.evaluation.track_iou import Size, is_size, parse_mask
from seqformer.tools.check_videos import CheckedVideo, objects
from seqformer.tools.findings import Findings

BOX_TOLERANCE = 2.0
"""Pixels by which a box may differ from that of its mask."""
AREA_TOLERANCE = 0.02
"""Share by which an area may differ from that of its mask."""
RLE = dict[str, Any]


def mask_sizes(content: dict[str, Any]) -> dict[int, set[Size]]:
    """By video id, the sizes that its run-length masks name."""
    sizes: dict[int, set[Size]] = {}
    for entry in content["annotations"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("segmentations"), list):
            continue
        for mask in entry["segmentations"]:
            size = mask.get("size") if isinstance(mask, dict) else None
            if isinstance(size, list) and len(size) == 2 and is_size(*size):
                sizes.setdefault(entry.get("video_id"), set()).add(tuple(size))
    return sizes


def check_annotations(
    content: dict[str, Any],
    videos: dict[int, CheckedVideo],
    listed_videos: Container[Any],
    category_ids: Container[Any],
    findings: Findings,
) -> list[dict[str, Any]]:
    """The annotations that stay, mended.

    Args:
        videos: those that stay.
        listed_videos: ids of all that the file lists; annotations of one that goes, go with it.
    """
    entries = objects(content, "annotations", findings)
    numbers = [entry.get("id") for _, entry in entries]
    free = max((n for n in numbers if type(n) is int), default=0)
    used: set[int] = set()
    kept = []
    for where, entry in entries:
        video_id, category_id = entry.get("video_id"), entry.get("category_id")
        if not _is_among(video_id, listed_videos):
            findings.add("unknown-video", where, f"is of video {video_id!r:.40}", "removed")
            continue
        if video_id not in videos:
            continue
        if not _is_among(category_id, category_ids):
            problem = f"is of category {category_id!r:.40}"
            findings.add("unknown-category", where, problem, "removed")
            continue
        mended = _check_tracks(where, entry, videos[video_id], findings)
        if mended is None:
            continue
        number = entry.get("id")
        if type(number) is not int or number in used:
            free += 1
            kind = "duplicate-id" if number in used else "bad-id"
            problem = "has the id of an earlier one" if number in used else f"has id {number!r:.40}"
            findings.add(kind, where, problem, f"given the id {free}")
            mended["id"] = number = free
        used.add(number)
        crowd = entry.get("iscrowd", 0)
        if type(crowd) not in (int, bool) or crowd not in (0, 1):
            findings.add("bad-crowd", where, f"has iscrowd {crowd!r:.40}", "set to 0")
            mended["iscrowd"] = 0
        kept.append(mended)
    return kept


def _is_among(number: Any, ids: Container[Any]) -> bool:
    return type(number) is int and number in ids


def _check_tracks(
    where: str, entry: dict[str, Any], video: CheckedVideo, findings: Findings
) -> dict[str, Any] | None:
    """The annotation with lists that fit its video; None if nothing is left of it."""
    masks = entry.get("segmentations")
    if not isinstance(masks, list) or len(masks) != video.num_listed:
        count = len(masks) if isinstance(masks, list) else "no list of"
        problem = f"has {count} segmentations, its video {video.num_listed} frames"
        findings.add("list-length", where, problem, "removed")
        return None
    rles: dict[int, RLE] = {}
    mended: list[Any] = [None] * len(masks)
    for t in video.kept:
        mended[t], rle = _check_mask(f"{where}, frame {t}", masks[t], video.size, findings)
        if rle is not None:
            rles[t] = rle
    if not rles:
        findings.add("no-mask", where, "has no mask in any frame", "removed")
        return None
    lists = {"segmentations": mended}
    frames = list(rles)
    areas = dict(zip(frames, coco_mask.area(list(rles.values())).tolist(), strict=True))
    boxes = dict(zip(frames, coco_mask.toBbox(list(rles.values())).tolist(), strict=True))
    lists["bboxes"] = _check_boxes(where, entry, video, boxes, findings)
    lists["areas"] = _check_areas(where, entry, video, areas, findings)
    return {**entry, **{key: [values[t] for t in video.kept] for key, values in lists.items()}}


def _check_mask(where: str, mask: Any, size: Size, findings: Findings) -> tuple[Any, RLE | None]:
    """What is to be written, and the same as run lengths; None if the instance is absent."""
    try:
        mask_size, text = parse_mask(mask, size)
        if mask_size is None:
            return None, None
        read_runs([text], [mask_size[0] * mask_size[1]])
    except InvalidMaskError as error:
        findings.add("bad-mask", where, f"the mask {error}", "set to null")
        return None, None
    if mask_size != size:
        problem = (
            f"the mask has {mask_size[0]} x {mask_size[1]} pixels, the video {size[0]} x {size[1]}"
        )
        findings.add("mask-size", where, problem, "set to null")
        return None, None
    rle = {"size": list(size), "counts": text}
    if not coco_mask.area(rle):
        findings.add("empty-mask", where, "the mask has no pixels", "set to null")
        return None, None
    if isinstance(mask, list):
        xs = [x for polygon in mask for x in polygon[0::2]]
        ys = [y for polygon in mask for y in polygon[1::2]]
        if min(*xs, *ys) < -1 or max(xs) > size[1] + 1 or max(ys) > size[0] + 1:
            problem = f"a polygon reaches ({min(xs):g}, {min(ys):g}) to ({max(xs):g}, {max(ys):g})"
            findings.add("outside", where, problem, "cut off at the border of the frame")
            return rle, rle
    return mask, rle


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
        findings.add("list-length", where, problem, "boxes made from the masks")
        return [expected.get(t) for t in range(video.num_listed)]
    mended: list[Any] = [None] * len(boxes)
    for t in video.kept:
        box, place = boxes[t], f"{where}, frame {t}"
        if t not in expected:
            if box and entry["segmentations"][t]:
                continue  # said already: the mask goes
            if box:
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
        if not _is_number(areas[t]) or abs(areas[t] - area) > max(2, AREA_TOLERANCE * area)
    ]
    for t in wrong[:1]:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        problem = f"frame {t} has area {areas[t]!r:.40}, the mask {expected[t]}{more}"
        findings.add("area-mismatch", where, problem, "areas made from the masks")
    if wrong:
        return from_masks
    return [area if t in expected else None for t, area in enumerate(areas)]


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return False
    return box[2] > 0 and box[3] > 0


def _distance(box: list[float], other: list[float]) -> float:
    """The largest distance between corresponding sides, in pixels."""
    near = (box[i] - other[i] for i in (0, 1))
    far = (box[i] + box[i + 2] - other[i] - other[i + 2] for i in (0, 1))
    return max(map(abs, (*near, *far)))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _numbers(box: list[float]) -> str:
    return "[" + ", ".join(f"{number:g}" for number in box) + "]"
