"""The outline of a file in COCO layout: its images, categories and annotations, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqformer.annotations.masks import Size, is_size
from seqformer.annotations.reader import read_categories
from seqformer.annotations.rules import get_file_names, get_id, get_object
from seqformer.annotations.ytvis import read_json


@dataclass(frozen=True, kw_only=True)
class CocoFile:
    """What a file lists.

    Attributes:
        path: the file.
        images: size (height, width) and file name by id, in the order of the file.
        names: of the categories by id.
        annotations: where each is, for messages, and what it says; image and category are known.
    """

    path: Path
    images: dict[int, tuple[Size, str]]
    names: dict[int, str]
    annotations: list[tuple[str, dict[str, Any]]]


def read_coco_file(path: Path) -> CocoFile:
    """Read a file of still images; it may have no annotations.

    Raises: FileNotFoundError; ValueError naming the file, the entry and what is wrong with it.
    """
    content = read_json(path)
    check_layout(path, content, ("images", "categories"))
    images, names = read_images(path, content), read_categories(str(path), content)
    listed = content.get("annotations") or []
    if not isinstance(listed, list):
        raise ValueError(f"{path}: annotations must be a list, not {type(listed).__name__}")
    annotations = []
    for number, value in enumerate(listed):
        where = describe(path, value, number)
        annotation = get_object(value, where)
        image_id, category_id = (
            get_id(annotation, key, where) for key in ("image_id", "category_id")
        )
        if image_id not in images:
            raise ValueError(f"{where} is of image {image_id}, which the file does not list")
        if category_id not in names:
            raise ValueError(f"{where} is of category {category_id}, which the file does not list")
        annotations.append((where, annotation))
    return CocoFile(path=path, images=images, names=names, annotations=annotations)


def check_layout(path: Path, content: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Raises: ValueError for a file that has not all of these lists, or nothing in one of them."""
    if "videos" in content and "images" not in content:
        raise ValueError(
            f"{path} lists videos (YouTube-VIS layout) and no images; give a file in COCO layout, "
            "or take the videos as such"
        )
    for key in keys:
        if not isinstance(content.get(key), list) or not content[key]:
            raise ValueError(f"{path} has no {key}; an annotation file in COCO layout lists them")


def read_images(path: Path, content: dict[str, Any]) -> dict[int, tuple[Size, str]]:
    """Size and file name by id. Raises: ValueError."""
    images: dict[int, tuple[Size, str]] = {}
    for number, value in enumerate(content["images"]):
        where = f"{path}: image number {number}"
        image = get_object(value, where)
        image_id = get_id(image, "id", where)
        if image_id in images:
            raise ValueError(f"{path} has two images with the id {image_id}; ids must be unique")
        where = f"{path}: image {image_id}"
        size: tuple[Any, Any] = image.get("height"), image.get("width")
        if not is_size(*size):
            raise ValueError(f"{where} needs a positive height and width, got {size!r:.60}")
        names = get_file_names({"file_names": [image.get("file_name")]}, where)
        assert names is not None
        images[image_id] = size, names[0]
    return images


def describe(path: Path, annotation: Any, number: int) -> str:
    """What to call an annotation in messages."""
    if isinstance(annotation, dict) and "id" in annotation:
        return f"{path}: annotation {annotation['id']}"
    return f"{path}: annotation number {number}"
