"""COCO's own AP of masks and boxes on single pictures, by pycocotools' COCOeval.

Both files are checked before: what COCOeval would stumble over is one sentence with file and entry,
and what it needs but nobody should have to write (areas, crowds, ids) is filled in.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from seqformer.annotations.coco_file import CocoFile, read_coco_file
from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.json_file import read_json_file
from seqformer.annotations.masks import Size, parse_mask
from seqformer.annotations.rules import get_box, get_id, get_number, get_object, is_crowd, is_number
from seqformer.annotations.run_lengths import read_runs

logger = logging.getLogger(__name__)

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCOeval's twelve numbers, in its order."""
RLE = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CocoMetrics:
    """The scores of a results file, in 0..1; -1 where there is nothing to find.

    Attributes:
        masks: the twelve numbers of the masks by name.
        boxes: those of the boxes.
        per_class: category id -> its name, its number of instances, and its AP of masks and boxes.
    """

    masks: dict[str, float]
    boxes: dict[str, float]
    per_class: dict[int, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: those of the masks by name, those of the boxes after `box_`."""
        per_class = {str(category_id): dict(row) for category_id, row in self.per_class.items()}
        boxes = {f"box_{name}": value for name, value in self.boxes.items()}
        return {**self.masks, **boxes, "per_class": per_class}

    def table(self) -> str:
        """Percentages: the twelve numbers of masks and boxes, then both AP of every class."""
        rows = self.per_class.values()
        width = max([len("masks"), *(len(row["name"]) for row in rows)])
        lines = [f"{'':{width}}" + "".join(f"{name:>7}" for name in NAMES)]
        for title, numbers in (("masks", self.masks), ("boxes", self.boxes)):
            lines.append(f"{title:{width}}" + "".join(_cell(numbers[name]) for name in NAMES))
        lines += ["-" * len(lines[0]), f"{'':{width}}  {'instances':>9}  masks  boxes"]
        lines += [
            f"{row['name']:{width}}  {row['num_instances']:>9}{_cell(row['AP'])}"
            f"{_cell(row['box_AP'])}"
            for row in rows
        ]
        return "\n".join(lines)


def evaluate_coco(annotations: Path, results: Path | list[dict[str, Any]]) -> CocoMetrics:
    """Score results of single pictures against a file in COCO layout.

    Results without a box get that of their mask.

    Raises: FileNotFoundError; ValueError naming file and entry for content that cannot be scored.
    """
    truth = read_coco_file(annotations)
    name = "results" if isinstance(results, list) else str(results)
    listed = read_json_file(results, "results file") if isinstance(results, Path) else results
    if not isinstance(listed, list):
        raise ValueError(f"{name} must hold a list of results, not {type(listed).__name__}")
    with contextlib.redirect_stdout(io.StringIO()):  # COCO tells its times
        instances = _indexed(truth, _instances(truth))
        found = _results(truth, listed, name)
    logger.info(
        "scoring %d results against %d instances of %d categories in %d pictures",
        len(found),
        sum(not entry["iscrowd"] for entry in instances.dataset["annotations"]),
        len(truth.names),
        len(truth.images),
    )
    of_masks = [{**entry, "bbox": entry["mask_box"]} for entry in found]
    of_boxes = [{**entry, "area": entry["bbox"][2] * entry["bbox"][3]} for entry in found]
    masks, mask_ap = _score(instances, _indexed(truth, of_masks), "segm")
    boxes, box_ap = _score(instances, _indexed(truth, of_boxes), "bbox")
    counts = np.zeros(len(truth.names), np.int64)
    ids = sorted(truth.names)
    for entry in instances.dataset["annotations"]:
        counts[ids.index(entry["category_id"])] += not entry["iscrowd"]
    per_class = {
        category_id: {
            "name": truth.names[category_id],
            "num_instances": int(counts[k]),
            "AP": mask_ap[k],
            "box_AP": box_ap[k],
        }
        for k, category_id in enumerate(ids)
    }
    return CocoMetrics(masks=masks, boxes=boxes, per_class=per_class)


def _cell(value: float) -> str:
    return f"{100 * value:7.2f}" if value >= 0 else f"{'-':>7}"


def _score(truth: COCO, found: COCO, kind: str) -> tuple[dict[str, float], list[float]]:
    """The twelve numbers, and the AP of every category in order of its id."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # [IoU, recall, K]
    per_class = [
        float(own[own > -1].mean()) if (own > -1).any() else -1.0
        for own in np.moveaxis(precision, 2, 0)
    ]
    return dict(zip(NAMES, map(float, evaluation.stats), strict=True)), per_class


def _indexed(truth: CocoFile, entries: list[dict[str, Any]]) -> COCO:
    """Instances or results as COCOeval takes them."""
    made = COCO()
    made.dataset = {
        "images": [
            {"id": image_id, "height": size[0], "width": size[1]}
            for image_id, (size, _) in truth.images.items()
        ],
        "categories": [{"id": i, "name": name} for i, name in sorted(truth.names.items())],
        "annotations": entries,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        made.createIndex()
    return made


def _instances(truth: CocoFile) -> list[dict[str, Any]]:
    """Raises: ValueError naming the entry."""
    masks = _masks(
        (where, entry.get("segmentation"), truth.images[entry["image_id"]][0])
        for where, entry in truth.annotations
    )
    made = []
    for number, ((where, entry), (rle, area)) in enumerate(
        zip(truth.annotations, masks, strict=True), start=1
    ):
        listed = entry.get("area")
        made.append(
            {
                "id": number,  # COCOeval takes 0 for no match
                "image_id": entry["image_id"],
                "category_id": entry["category_id"],
                "iscrowd": int(is_crowd(entry.get("iscrowd"), where)),
                "segmentation": rle,
                "area": float(area if listed is None or not is_number(listed) else listed),
                "bbox": list(get_box(entry.get("bbox")) or coco_mask.toBbox(rle).tolist()),
            }
        )
    return made


def _results(truth: CocoFile, listed: list[Any], name: str) -> list[dict[str, Any]]:
    """Raises: ValueError naming the entry."""
    entries = []
    for number, value in enumerate(listed):
        where = f"{name}: result number {number}"
        entry = get_object(value, where)
        image_id = get_id(entry, "image_id", where)
        if image_id not in truth.images:
            raise ValueError(
                f"{where} is of image {image_id}, which {truth.path} does not list; results and "
                "annotations must be of the same pictures"
            )
        get_id(entry, "category_id", where)
        get_number(entry.get("score"), "score", where)
        if entry.get("segmentation") is None:
            raise ValueError(f"{where} has no segmentation; needed are the run lengths of a mask")
        entries.append((where, entry))
    if entries and not any(entry["category_id"] in truth.names for _, entry in entries):
        raise ValueError(
            f"{name} has no result of a category that {truth.path} lists; results and annotations "
            "must have the same edition of classes"
        )
    masks = _masks(
        (where, entry["segmentation"], truth.images[entry["image_id"]][0])
        for where, entry in entries
    )
    boxes = coco_mask.toBbox([rle for rle, _ in masks]).tolist() if masks else []
    return [
        {
            "id": number,
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "score": float(entry["score"]),
            "iscrowd": 0,
            "segmentation": rle,
            "area": float(area),
            "mask_box": box,
            "bbox": list(get_box(entry.get("bbox")) or box),
        }
        for number, ((_, entry), (rle, area), box) in enumerate(
            zip(entries, masks, boxes, strict=True), start=1
        )
    ]


def _masks(segmentations: Iterable[tuple[str, Any, Size]]) -> list[tuple[RLE, int]]:
    """Of each (where, segmentation, size of its picture) the run lengths and the area.

    Raises: ValueError naming the mask.
    """
    places, sizes, texts = [], [], []
    for where, segmentation, size in segmentations:
        try:
            own, text = parse_mask(segmentation, size)
            if own is None:
                raise InvalidMaskError("is missing")
        except InvalidMaskError as error:
            raise ValueError(f"{where}: its mask {error}") from None
        if own != size:
            raise ValueError(
                f"{where}: its mask has size {list(own)} but its picture {list(size)} (height, "
                "width)"
            )
        places.append(where)
        sizes.append(size)
        texts.append(text)
    try:
        areas = read_runs(texts, [height * width for height, width in sizes]).areas.tolist()
    except InvalidMaskError as error:
        raise ValueError(f"{places[error.position]}: its mask {error}") from None
    rles = [{"size": list(s), "counts": t} for s, t in zip(sizes, texts, strict=True)]
    return list(zip(rles, areas, strict=True))
