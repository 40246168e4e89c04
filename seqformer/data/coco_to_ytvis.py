"""Make the still images' annotation file of joint training from COCO's own.

`python -m seqformer.data.coco_to_ytvis instances_train2017.json --categories 2019` writes a file in
COCO layout that holds the images with an instance of a mapped category, those instances, and the
categories (ids and names) of the video set. Crowds are left out, as they are never trained on.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import tyro
from tqdm import tqdm

from seqformer.annotations.rules import get_id, get_object, is_crowd
from seqformer.command import Command, exit_with
from seqformer.data.coco import read_categories
from seqformer.data.coco_categories import Edition, coco_to_ytvis, target_categories
from seqformer.data.ytvis import read_json
from seqformer.files import write_bytes, writing_to

PROGRAM = "coco_to_ytvis"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Keep of a COCO annotation file what a video set can use, under the video set's categories."""

    source: Annotated[Path, tyro.conf.Positional]
    """COCO annotation file, such as instances_train2017.json."""
    output: Path | None = None
    """File to write; default beside the source, coco_keepfor_ytvis2019.json and alike."""
    categories: Edition = "2019"
    """Video set to map to: YouTube-VIS 2019 or 2021, or OVIS. 2019_published repeats the slip of
    the published map, mouse as fox."""
    like: Path | None = None
    """Annotation file of your own videos, instead of --categories: its categories are matched to
    COCO's by name (capitals, blanks and underscores do not matter)."""


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
    present = {category["id"] for category in read_categories(content, path)}
    missing = sorted(set(mapping) - present)
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
        "info": {"description": f"{path.name}, mapped by seqformer.data.{PROGRAM}"},
        "images": [image for image_id, image in images.items() if image_id in used],
        "annotations": kept,
        "categories": categories,
    }


def map_by_name(
    coco: list[dict[str, Any]], own: list[dict[str, Any]], path: Path
) -> dict[int, int]:
    """COCO category id -> own id where the names agree. Raises: ValueError where none does."""
    ids = {_plain(category["name"]): category["id"] for category in own}
    mapping = {c["id"]: ids[_plain(c["name"])] for c in coco if _plain(c["name"]) in ids}
    if not mapping:
        raise ValueError(
            f"no category of {path} has the name of a COCO category; rename them, or train "
            "without COCO"
        )
    return mapping


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ").strip()


def run(options: Options) -> Path:
    """Convert and write. Returns: the file. Raises: OSError, ValueError."""
    suffix = options.like.stem if options.like else f"ytvis{options.categories}"
    name = f"coco_keepfor_{suffix.replace('ytvisovis', 'ovis')}.json"
    output = options.output or options.source.with_name(name)
    if output.resolve() == options.source.resolve():
        raise ValueError(f"--output {output} is the source itself; choose another name")
    print(f"reading {options.source} (COCO's training file takes about 4 GB of memory)")
    gc.disable()  # millions of new objects and no garbage
    content = read_json(options.source)
    if options.like:
        categories = read_categories(read_json(options.like), options.like)
        mapping = map_by_name(read_categories(content, options.source), categories, options.like)
    else:
        mapping, categories = (
            coco_to_ytvis(options.categories),
            target_categories(options.categories),
        )
    converted = convert(content, options.source, mapping, categories, show_progress=True)
    with writing_to(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(output, orjson.dumps(converted))
    print(
        f"{output}: {len(converted['annotations'])} instances of {len(set(mapping.values()))} "
        f"categories in {len(converted['images'])} images"
    )
    return output


def main(argv: list[str] | None = None) -> int:
    """The command. Returns: the exit code; a mistake is one sentence and 1."""
    options = tyro.cli(Options, prog=f"python -m seqformer.data.{PROGRAM}", args=argv)

    def act() -> None:
        run(options)

    return Command(PROGRAM, error_code=1).run(act)


if __name__ == "__main__":
    exit_with(PROGRAM, main)
