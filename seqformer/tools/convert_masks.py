"""Folders of mask images -> YouTube-VIS layout: DAVIS-style palettes, and MOTS.

In both, every folder of PNG files is a video, and every number in them an instance.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from seqformer.annotations.json_file import read_json_file
from seqformer.tools.annotation_json import Content
from seqformer.tools.track_builder import (
    TrackBuilder,
    check_size,
    image_names,
    mask_folders,
    read_labels,
)

logger = logging.getLogger(__name__)

VOID = 255
"""Palette index of pixels that nobody has judged."""
MOTS_IGNORE = 10_000
"""Value of MOTS regions that are not evaluated."""
MOTS_BASE = 1_000
"""A MOTS pixel is class * 1000 + instance."""


def from_palette(
    masks: Path,
    images: Path | None,
    category: str = "object",
    labels: Mapping[str, Mapping[str, str]] | None = None,
) -> Content:
    """DAVIS, YouTube-VOS and the like: the palette index of a pixel is its instance, 0 the ground.

    Index 255 is void and left out; where all images are grey and hold 0 and 255 alone (DAVIS 2016)
    it is the only instance.

    Args:
        masks: folder with a folder of PNG files per video; frames without a mask are not listed.
        images: folder of the frames, named like the masks.
        category: name of the class of all instances.
        labels: video -> index as text -> class name, where known.

    Raises: FileNotFoundError, ValueError naming the file and what is wrong with it.
    """
    labels = labels or {}
    own_names = {name for of_video in labels.values() for name in of_video.values()}
    folders = mask_folders(masks)
    unknown = sorted(set(labels) - {folder for folder, _ in folders})
    if unknown:
        raise ValueError(f"the labels name the video {unknown[0]!r}, which is not in {masks}")
    ids = {name: i for i, name in enumerate(sorted(own_names), start=1)}
    ids.setdefault(category, len(ids) + 1)
    builder = TrackBuilder([{"id": i, "name": name} for name, i in ids.items()])
    is_binary = _is_binary(path for _, paths in folders for path in paths)
    for folder, paths in folders:
        names, video = image_names(folder, paths, images), None
        for t, path in enumerate(paths):
            numbers, _ = read_labels(path)
            video = video or builder.add_video(names, numbers.shape)
            check_size(numbers, video.size, path)
            if is_binary:
                numbers = (numbers > 0).astype(numbers.dtype)
            video.add_labels(t, numbers, ignored=(VOID,))
        assert video is not None
        known = labels.get(folder, {})
        for number in sorted(video.masks):
            video.finish(number, ids[known.get(str(number), category)])
    if category not in own_names and all(
        entry["category_id"] != ids[category] for entry in builder.annotations
    ):
        del builder.categories[-1]  # everything has a name of its own
    return builder.content("converted from palette masks")


def _is_binary(paths: Iterable[Path]) -> bool:
    """Whether all masks are grey images of 0 and 255. Reads up to the first that is not."""
    for path in paths:
        numbers, mode = read_labels(path)
        if mode != "L" or not ((numbers == 0) | (numbers == VOID)).all():
            return False
    return True


def from_mots(masks: Path, images: Path | None, classes: Mapping[int, str]) -> Content:
    """KITTI MOTS and MOTSChallenge: 16-bit PNG, class * 1000 + instance.

    Regions of the value 10000 belong to no instance and no class, so they cannot become crowds;
    they are left out.

    Args:
        classes: class id -> name.

    Raises: FileNotFoundError, ValueError naming the file and what is wrong with it.
    """
    builder = TrackBuilder([{"id": k, "name": name} for k, name in sorted(classes.items())])
    num_ignored = 0
    for folder, paths in mask_folders(masks):
        names, video = image_names(folder, paths, images), None
        for t, path in enumerate(paths):
            numbers, _ = read_labels(path)
            video = video or builder.add_video(names, numbers.shape)
            check_size(numbers, video.size, path)
            for number in set(np.unique(numbers).tolist()) - {0, MOTS_IGNORE}:
                if number // MOTS_BASE not in classes:
                    raise ValueError(
                        f"mask {path} has pixels of the value {number}, class "
                        f"{number // MOTS_BASE}, which is not among {sorted(classes)}; name it "
                        "with --classes, or is this no MOTS mask?"
                    )
            num_ignored += bool((numbers == MOTS_IGNORE).any())
            video.add_labels(t, numbers, ignored=(MOTS_IGNORE,))
        assert video is not None
        for number in sorted(video.masks):
            video.finish(number, number // MOTS_BASE)
    if num_ignored:
        logger.warning("regions to ignore, in %d frames, are left out", num_ignored)
    return builder.content("converted from MOTS masks")


def read_labels_file(path: Path | None) -> dict[str, dict[str, str]]:
    """Class names: {"video": {"1": "person"}}. Raises: FileNotFoundError, ValueError."""
    if path is None:
        return {}
    labels = read_json_file(path, "labels file")
    is_sound = isinstance(labels, dict) and all(
        isinstance(of_video, dict) and all(isinstance(name, str) for name in of_video.values())
        for of_video in labels.values()
    )
    if not is_sound:
        raise ValueError(f'{path} must be like {{"video": {{"1": "person", "2": "horse"}}}}')
    return labels
