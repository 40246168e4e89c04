"""Make the still images' annotation file of joint training from COCO's own.

`seqformer data coco-to-ytvis instances_train2017.json --categories 2019` writes a file in
COCO layout that holds the images with an instance of a mapped category, those instances, and the
categories (ids and names) of the video set. Crowds are left out, as they are never trained on.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import orjson
from tqdm import tqdm

from seqformer.annotations.coco_categories import Edition, coco_to_ytvis, target_categories
from seqformer.annotations.reader import read_categories
from seqformer.annotations.rules import get_id, get_object, is_crowd
from seqformer.annotations.ytvis import read_json
from seqformer.files import write_bytes, writing_to


def convert(
    content: dict[str, Any],
    path: Path,
    mapping: dict[int, int],
    categories: list[dict[str, Any]],
    show_progress: bool = False,
) -> dict[str, Any]:
    """The filtered content of a COCO file.

    Args:
        content: of the file at `path`, which is named in messages.
        mapping: COCO category id -> id of the video set.
        categories: of the video set.

    Raises: ValueError when the file is not COCO's, lacks a mapped category or nothing is left.
    """
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise ValueError(f"{path} has no {key}; give an instances_*.json of COCO")
    missing = sorted(set(mapping) - read_categories(str(path), content).keys())
    if missing:
        raise ValueError(
            f"{path} lacks the COCO categories {', '.join(map(str, missing))}, which the map "
            "needs; give the instances_*.json of COCO as it was downloaded (80 categories)"
        )
    images = {}
    for number, image in enumerate(content["images"]):
        where = f"{path}: image number {number}"
        images[get_id(get_object(image, where), "id", where)] = image
    kept, used = [], set()
    for number, annotation in enumerate(
        tqdm(content["annotations"], "annotations", unit_scale=True, disable=not show_progress)
    ):
        where = f"{path}: annotation number {number}"
        category_id = mapping.get(get_id(get_object(annotation, where), "category_id", where))
        if category_id is None or is_crowd(annotation.get("iscrowd"), where):
            continue
        image_id = get_id(annotation, "image_id", where)
        if image_id not in images:
            raise ValueError(f"{where} belongs to image {image_id}, which the file does not list")
        if annotation.get("segmentation") is None:
            raise ValueError(f"{where} has no 'segmentation', and masks are what is trained on")
        kept.append({**annotation, "category_id": category_id})
        used.add(image_id)
    if not kept:
        raise ValueError(f"{path} has no instance of a mapped category")
    return {
        "info": {"description": f"{path.name}, mapped by seqformer.data.coco_to_ytvis"},
        "images": [image for image_id, image in images.items() if image_id in used],
        "annotations": kept,
        "categories": categories,
    }


def map_by_name(coco: dict[int, str], own: dict[int, str], path: Path) -> dict[int, int]:
    """COCO category id -> own id where the names agree. Raises: ValueError where none does."""
    ids = {_plain(name): category_id for category_id, name in own.items()}
    mapping = {i: ids[_plain(name)] for i, name in coco.items() if _plain(name) in ids}
    if not mapping:
        raise ValueError(
            f"no category of {path} has the name of a COCO category; rename them, or train "
            "without COCO"
        )
    return mapping


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ").strip()


def convert_file(source: Path, output: Path | None, edition: Edition, like: Path | None) -> Path:
    """Convert and write.

    Args:
        source: COCO annotation file.
        output: None for a name of its own beside the source.
        edition: video set to map to, unless `like` is given.
        like: annotation file whose categories are matched by name.

    Returns: the file.
    Raises: OSError, ValueError.
    """
    suffix = like.stem if like else f"ytvis{edition}"
    name = f"coco_keepfor_{suffix.replace('ytvisovis', 'ovis')}.json"
    target = output or source.with_name(name)
    if target.resolve() == source.resolve():
        raise ValueError(f"--output {target} is the source itself; choose another name")
    print(f"reading {source} (COCO's training file takes about 4 GB of memory)")
    gc.disable()  # millions of new objects and no garbage
    content = read_json(source)
    if like:
        own = read_categories(str(like), read_json(like))
        mapping = map_by_name(read_categories(str(source), content), own, like)
        categories = [{"id": i, "name": name} for i, name in own.items()]
    else:
        mapping, categories = coco_to_ytvis(edition), target_categories(edition)
    converted = convert(content, source, mapping, categories, show_progress=True)
    with writing_to(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, orjson.dumps(converted))
    print(
        f"{target}: {len(converted['annotations'])} instances of {len(set(mapping.values()))} "
        f"categories in {len(converted['images'])} images"
    )
    return target
