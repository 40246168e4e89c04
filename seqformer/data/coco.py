"""Annotation files of still images in COCO layout, as one-frame videos in flat arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from seqformer.data.arena import Arena, ArenaBuilder
from seqformer.data.cache import cached_arena
from seqformer.data.coco_categories import CocoMapping, coco_to_ytvis, target_categories
from seqformer.data.segmentation import pack_segmentation
from seqformer.data.ytvis import (
    AnnotationSet,
    annotation_id,
    clipped_boxes,
    get_integer,
    get_value,
    read_box,
    read_categories,
    read_json,
    read_segmentation,
)

_COMMAND = "python -m seqformer.data.coco_to_ytvis"


def load_coco_file(
    path: str | Path, mapping: CocoMapping, cache: Path | None = None
) -> AnnotationSet:
    """Read and check the annotations of still images.

    Images without instances, crowds and boxes without area are left out, as they are never
    trained on.

    Args:
        mapping: from the file's categories to those of a video set; "as_is" where the file has
            them already, which the command of `coco_to_ytvis.py` sees to.
        cache: see `load_annotation_file`.

    Raises: FileNotFoundError; ValueError naming the file, the entry and what is wrong with it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"COCO annotation file {path} does not exist; make it from instances_train2017.json "
            f"with `{_COMMAND}`, or train on videos alone with --data.coco-images None "
            "--data.coco-annotations None"
        )
    arena = cached_arena(path, f"coco {mapping}", cache, lambda: _parse(path, mapping))
    return AnnotationSet(path=path, arena=arena, categories=list(arena.extra["categories"]))


def _parse(path: Path, mapping: CocoMapping) -> Arena:
    content = read_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list) or not content[key]:
            raise ValueError(f"{path} has no {key}; an annotation file in COCO layout lists them")
    categories = read_categories(content, path)
    if mapping == "as_is":
        to_target = {category["id"]: category["id"] for category in categories}
    else:
        to_target = coco_to_ytvis(mapping)
        names = {category["id"]: category["name"] for category in target_categories(mapping)}
        categories = [{"id": i, "name": names[i]} for i in sorted(set(to_target.values()))]

    by_image: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for number, annotation in enumerate(content["annotations"]):
        where = _describe(path, annotation, number)
        image_id = get_integer(annotation, "image_id", where)
        category_id = get_integer(annotation, "category_id", where)
        if category_id not in to_target:
            raise ValueError(
                f"{where} has category_id {category_id}, which has no counterpart "
                f"({_target(mapping)}); keep only mapped categories with `{_COMMAND}`"
            )
        by_image.setdefault(image_id, []).append((number, annotation))

    builder = ArenaBuilder()
    known = set()
    for number, image in enumerate(content["images"]):
        where = f"{path}: image number {number}"
        image_id = get_integer(image, "id", where)
        if image_id in known:
            raise ValueError(f"{path} has two images with the id {image_id}; ids must be unique")
        known.add(image_id)
        where = f"{path}: image {image_id}"
        height, width = get_integer(image, "height", where), get_integer(image, "width", where)
        name = get_value(image, "file_name", where)
        if height < 1 or width < 1 or not isinstance(name, str):
            raise ValueError(f"{where} needs a positive height and width and a file_name")
        kept = _instances(path, by_image.get(image_id, ()), height, width)
        if kept:
            builder.add_video(image_id, height, width, [name])
        for label, annotation, boxes, packed in kept:
            builder.add_instance(
                len(builder.videos) - 1, annotation, to_target[label], False, boxes, [packed]
            )
    unknown = sorted(set(by_image) - known)
    if unknown:
        raise ValueError(
            f"{path} has annotations of image {unknown[0]}, which the file does not list"
        )
    if not builder.videos:
        raise ValueError(f"{path} has no image with an instance to train on (crowds do not count)")
    return builder.build({"categories": categories})


def _instances(
    path: Path, annotations: Any, height: int, width: int
) -> list[tuple[int, int, np.ndarray, bytes]]:
    """(category, id, box [1, 4], packed mask) of what can be trained on in one image."""
    kept = []
    for number, annotation in annotations:
        if annotation.get("iscrowd"):
            continue
        where = _describe(path, annotation, number)
        boxes = clipped_boxes([read_box(annotation.get("bbox"), where)], height, width)
        if not (boxes[0, 2:] > boxes[0, :2]).all():
            continue
        segmentation = read_segmentation(
            annotation.get("segmentation"), height, width, f"{where}: the segmentation"
        )
        packed = pack_segmentation(segmentation, height, width)
        kept.append((annotation["category_id"], annotation_id(annotation, number), boxes, packed))
    return kept


def _describe(path: Path, annotation: Any, number: int) -> str:
    if isinstance(annotation, dict) and "id" in annotation:
        return f"{path}: annotation {annotation['id']}"
    return f"{path}: annotation number {number}"


def _target(mapping: CocoMapping) -> str:
    if mapping == "as_is":
        return "among the file's own categories"
    return f"in the map {mapping} from COCO"
