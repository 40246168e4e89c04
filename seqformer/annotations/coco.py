"""Annotation files of still images in COCO layout, as one-frame videos in flat arrays."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from seqformer.annotations.boxes import has_area
from seqformer.annotations.cache import cached_annotations
from seqformer.annotations.coco_categories import CocoMapping, coco_to_ytvis, target_categories
from seqformer.annotations.coco_file import check_layout, describe, read_images
from seqformer.annotations.mask_packer import MaskPacker, Presence
from seqformer.annotations.packed import PackedAnnotations, PackedBuilder
from seqformer.annotations.reader import Notes, read_categories
from seqformer.annotations.rules import get_id, get_object, is_crowd
from seqformer.annotations.ytvis import AnnotationSet, read_json

logger = logging.getLogger(__name__)

_COMMAND = "seqformer data coco-to-ytvis"


def load_coco_file(
    path: str | Path,
    mapping: CocoMapping,
    cache: Path | None = None,
    presence: Presence = "mask",
) -> AnnotationSet:
    """Read and check the annotations of still images.

    Images without instances, crowds and instances without a mask are left out, as they are never
    trained on; where boxes and masks do not agree, that is said.

    Args:
        mapping: from the file's categories to those of a video set; "as_is" where the file has
            them already, which the command of `coco_to_ytvis.py` sees to.
        cache: see `load_annotation_file`.
        presence: likewise.

    Raises: FileNotFoundError; ValueError naming the file, the entry and what is wrong with it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"COCO annotation file {path} does not exist; make it from instances_train2017.json "
            f"with `{_COMMAND}`, or train on videos alone with --data.coco-images None "
            "--data.coco-annotations None"
        )
    packed = cached_annotations(
        path, f"coco {mapping} {presence}", cache, lambda: _parse(path, mapping, presence)
    )
    for sentence in packed.extra["notes"]:
        logger.warning("%s", sentence)
    return AnnotationSet(path=path, packed=packed, categories=list(packed.extra["categories"]))


def _parse(path: Path, mapping: CocoMapping, presence: Presence) -> PackedAnnotations:
    content = read_json(path)
    check_layout(path, content, ("images", "annotations", "categories"))
    own = read_categories(str(path), content)
    categories: list[dict[str, Any]] = [{"id": i, "name": name} for i, name in own.items()]
    if mapping == "as_is":
        to_target = {category["id"]: category["id"] for category in categories}
    else:
        to_target = coco_to_ytvis(mapping)
        names = {category["id"]: category["name"] for category in target_categories(mapping)}
        categories = [{"id": i, "name": names[i]} for i in sorted(set(to_target.values()))]
    images = read_images(path, content)
    by_image: dict[int, list[tuple[str, int, dict[str, Any]]]] = {}
    for number, value in enumerate(content["annotations"]):
        where = describe(path, value, number)
        annotation = get_object(value, where)
        image_id = get_id(annotation, "image_id", where)
        category_id = get_id(annotation, "category_id", where)
        if category_id not in to_target:
            raise ValueError(
                f"{where} has category_id {category_id}, which has no counterpart "
                f"({_target(mapping)}); keep only mapped categories with `{_COMMAND}`"
            )
        if image_id not in images:
            raise ValueError(
                f"{path} has annotations of image {image_id}, which the file does not list"
            )
        if not is_crowd(annotation.get("iscrowd"), where):
            by_image.setdefault(image_id, []).append((where, number, annotation))

    notes, packer = Notes(str(path)), MaskPacker(presence, keeps_polygons=True)
    entries = [(i, *entry) for i in images for entry in by_image.get(i, ())]
    for image_id, where, _, annotation in entries:
        (height, width), _ = images[image_id]
        mask, box = annotation.get("segmentation"), annotation.get("bbox")
        packer.add(where, [mask], [box], (height, width))
    boxes, packed = packer.finish(notes)
    builder = PackedBuilder()
    kept = [has_area(box).all() for box in boxes]
    last = None
    for (image_id, where, number, annotation), is_kept in zip(entries, kept, strict=True):
        if not is_kept:
            continue
        if image_id != last:
            last = image_id
            (height, width), name = images[image_id]
            builder.add_video(image_id, height, width, [name])
        builder.add_instance(
            len(builder.videos) - 1,
            get_id(annotation, "id", where) if "id" in annotation else number,
            to_target[annotation["category_id"]],
            False,
        )
    builder.boxes = [box for box, is_kept in zip(boxes, kept, strict=True) if is_kept]
    builder.packed = [mask for mask, is_kept in zip(packed, kept, strict=True) if is_kept]
    if not builder.videos:
        raise ValueError(f"{path} has no image with an instance to train on (crowds do not count)")
    return builder.build({"categories": categories, "notes": notes.sentences()})


def _target(mapping: CocoMapping) -> str:
    if mapping == "as_is":
        return "among the file's own categories"
    return f"in the map {mapping} from COCO"
