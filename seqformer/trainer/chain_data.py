"""Where COCO and YouTube-VIS keep what a chain needs, in the folders that people have of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqformer.data.synthetic import SyntheticPaths
from seqformer.data.synthetic_stills import StillsPaths

_TRAIN_IMAGES = ("train/JPEGImages", "train_all_frames/JPEGImages", "train")
_VAL_IMAGES = ("valid/JPEGImages", "val/JPEGImages", "valid", "val")
_TRAIN_FILES = (
    *("annotations/instances_train_sub.json", "instances_train_sub.json"),
    *("annotations/train.json", "train.json", "annotations/instances_train.json"),
    *("train/instances.json", "train/train.json", "annotations_train.json"),
)
_VAL_FILES = (
    *("annotations/instances_val_sub.json", "instances_val_sub.json", "annotations/valid.json"),
    *("valid.json", "annotations/instances_val.json", "annotations/val.json", "val.json"),
    *("valid/instances.json", "valid/valid.json", "annotations_valid.json"),
)


@dataclass(frozen=True, kw_only=True)
class ChainData:
    """Paths of images and annotation files, and what of them is missing.

    Attributes:
        missing: sentences; empty where everything is there.
    """

    stills: StillsPaths
    videos: SyntheticPaths
    missing: tuple[str, ...] = ()


def find_data(coco: Path, ytvis: Path) -> ChainData:
    """What lies in the two folders."""
    stills = StillsPaths.under(coco)
    missing = [
        f"--coco: {path} does not exist"
        for path in (
            *(stills.train_images, stills.train_annotations),
            *(stills.val_images, stills.val_annotations),
        )
        if not path.exists()
    ]
    found = {}
    for what, names in (
        ("train_images", _TRAIN_IMAGES),
        ("train_annotations", _TRAIN_FILES),
        ("val_images", _VAL_IMAGES),
        ("val_annotations", _VAL_FILES),
    ):
        there = [ytvis / name for name in names if (ytvis / name).exists()]
        found[what] = there[0] if there else ytvis / names[0]
        if not there:
            known = ", ".join(names)
            missing.append(f"--ytvis: {ytvis} has no {what.replace('_', ' ')} (one of {known})")
    return ChainData(stills=stills, videos=SyntheticPaths(**found), missing=tuple(missing))


def drawn_data(folder: Path) -> ChainData:
    """Where the demo draws its data; it need not be there yet."""
    return ChainData(
        stills=StillsPaths.under(folder / "stills"), videos=SyntheticPaths.under(folder / "videos")
    )
