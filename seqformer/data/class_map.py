"""What the classifier's outputs stand for, from the categories of the annotation files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

from seqformer.annotations.coco_categories import coco_names
from seqformer.annotations.ytvis import AnnotationSet
from seqformer.structures import ClassMap

logger = logging.getLogger(__name__)

PUBLISHED_OUTPUTS = 42
"""Of the published models of videos."""
PUBLISHED_COCO_OUTPUTS = 91
"""Of the published models of pictures; COCO's category ids are 1..90, with gaps."""


def build_class_map(
    annotations: AnnotationSet | Sequence[AnnotationSet],
    layout: Literal["from_data", "published"],
    num_outputs: int = PUBLISHED_OUTPUTS,
) -> ClassMap:
    """Outputs of the classifier for the categories of one or more sets.

    Args:
        num_outputs: of the published layout.

    Raises: ValueError when the ids do not fit the published layout, or stand for different things.
    """
    sets = [annotations] if isinstance(annotations, AnnotationSet) else annotations
    categories: dict[int, dict] = {}
    for one in sets:
        for category in one.categories:
            known = categories.setdefault(category["id"], category)
            if _plain(known["name"]) != _plain(category["name"]):
                raise ValueError(
                    f"category {category['id']} is {known['name']!r} in {sets[0].path} but "
                    f"{category['name']!r} in {one.path}; sets trained on jointly must agree"
                )
    if layout == "published":
        return ClassMap.published(list(categories.values()), num_outputs)
    return ClassMap.from_categories(list(categories.values()))


def check_coco_categories(still: AnnotationSet) -> None:
    """Find a file whose ids do not mean what COCO's do, before they become outputs.

    Raises: ValueError when most names are not COCO's.
    """
    names = coco_names()
    other = [c for c in still.categories if _plain(c["name"]) != names.get(c["id"])]
    if 2 * len(other) > len(still.categories):
        listed = ", ".join(f"{c['id']} ({c['name']})" for c in other[:3])
        raise ValueError(
            f"{still.path} has another edition of classes than COCO: {listed}; give COCO's "
            "instances_train2017.json as it was downloaded, or --data.class-layout from_data, "
            "which takes any classes"
        )


def check_still_categories(still: AnnotationSet, classes: ClassMap) -> None:
    """Find still images that were mapped to the categories of another video set.

    Raises: ValueError when most names differ; a few are only warned of (spellings vary).
    """
    names = dict(zip(classes.ids, classes.names, strict=True))
    shared = [c for c in still.categories if c["id"] in names]
    other = [c for c in shared if _plain(c["name"]) != _plain(names[c["id"]])]
    if not other:
        return
    listed = ", ".join(f"{c['id']} ({c['name']}, not {names[c['id']]})" for c in other[:3])
    message = f"{still.path} has other names for {len(other)} categories of the videos: {listed}"
    if 2 * len(other) > len(shared):
        raise ValueError(
            f"{message}; map COCO to the edition that the videos are of "
            "(`seqformer data coco-to-ytvis --categories`, or --data.coco-categories)"
        )
    logger.warning("%s", message)


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")
