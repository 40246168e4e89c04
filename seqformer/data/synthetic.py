"""The demo data set, drawn by a program: textured shapes on textured ground, in YouTube-VIS layout.

Shapes of a few classes drift, turn, grow and shrink, hide one another (later ones lie on top; masks
are the visible parts), and in some videos one leaves and comes back. Colour says nothing about the
class, so the silhouette must be learned. The same arguments give the same annotation files byte
for byte and the same pixels.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from seqformer.annotations.run_lengths import encode_masks
from seqformer.data.synthetic_drawing import SyntheticConfig, draw_video
from seqformer.files import write_error

logger = logging.getLogger(__name__)

FORMAT = 1
"""Raised whenever the same arguments would give other files than before."""
STAMP_NAME = "dataset.json"
JPEG_QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class SyntheticPaths:
    """Where the written data set lies."""

    train_images: Path
    train_annotations: Path
    val_images: Path
    val_annotations: Path

    @classmethod
    def under(cls, root: Path) -> SyntheticPaths:
        """The layout below `root`."""
        return cls(
            train_images=root / "train" / "JPEGImages",
            train_annotations=root / "annotations" / "instances_train.json",
            val_images=root / "val" / "JPEGImages",
            val_annotations=root / "annotations" / "instances_val.json",
        )


def make_synthetic_dataset(
    root: str | Path,
    *,
    num_train: int,
    num_val: int,
    num_frames: int,
    height: int,
    width: int,
    seed: int,
    config: SyntheticConfig | None = None,
) -> SyntheticPaths:
    """Write the data set below `root`, or reuse it where it already lies there.

    Args:
        num_train: videos of the training set.
        num_val: videos of the validation set, drawn independently of the training set.
        num_frames: frames per video.
        height: of every frame, in pixels.
        width: of every frame, in pixels.

    Raises: ValueError for impossible arguments, or when `root` holds anything else; nothing is
        ever overwritten, and an interrupted call leaves no half of a data set behind. WriteError
        when the disk is full.
    """
    config = config or SyntheticConfig()
    sizes = {"num_train": num_train, "num_val": num_val, "num_frames": num_frames}
    for name, value, least in [*((k, v, 1) for k, v in sizes.items()), ("seed", seed, 0)]:
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if min(height, width) < 32:
        raise ValueError(f"frames must be 32 x 32 pixels or more, got {height} x {width}")

    root = Path(root)
    arguments = {**sizes, "height": height, "width": width, "seed": seed, "config": asdict(config)}
    stamp = stamp_of(arguments)

    def write(draft: Path) -> None:
        paths = SyntheticPaths.under(draft)
        paths.train_annotations.parent.mkdir()
        splits = [
            (0, num_train, paths.train_images, paths.train_annotations),
            (1, num_val, paths.val_images, paths.val_annotations),
        ]
        for split, num_videos, images, file in splits:
            content = _write_split(
                images, split, num_videos, num_frames, height, width, seed, config
            )
            file.write_text(json.dumps(content), encoding="utf-8")

    if write_once(root, stamp, write):
        logger.info("wrote %d + %d synthetic videos to %s", num_train, num_val, root)
    return SyntheticPaths.under(root)


def write_once(root: Path, stamp: str, write: Callable[[Path], None]) -> bool:
    """Fill a folder beside `root` and rename it into place, unless the set of this stamp lies there
    already. Returns: whether it was written.

    Raises: ValueError if `root` holds anything else; WriteError.
    """
    if _is_there(root, stamp):
        logger.info("reusing the synthetic data set in %s", root)
        return False
    try:
        with _draft_of(root) as draft:
            write(draft)
            (draft / STAMP_NAME).write_text(stamp, encoding="utf-8")
            draft.chmod(0o755)
            # Another process may have finished the same set meanwhile.
            if not _is_there(root, stamp):
                if root.is_dir():
                    root.rmdir()
                draft.rename(root)
    except OSError as error:
        raise write_error(root, error) from error
    return True


@contextmanager
def _draft_of(root: Path) -> Iterator[Path]:
    """A folder beside `root`, which is gone afterwards unless it was renamed."""
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def stamp_of(arguments: dict[str, Any]) -> str:
    """What tells a drawn set from one that other arguments gave."""
    content = {"generator": "seqformer.data.synthetic", "format": FORMAT, **arguments}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1) + "\n"


def _is_there(root: Path, stamp: str) -> bool:
    """Whether `root` holds the set of this stamp. Raises: ValueError if it holds anything else."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise ValueError(f"{root} is a file; the synthetic data set needs a folder")
    if not any(root.iterdir()):
        return False
    path = root / STAMP_NAME
    if path.is_file() and path.read_text(encoding="utf-8") == stamp:
        return True
    what = "a synthetic data set made with other settings" if path.is_file() else "other files"
    raise ValueError(f"{root} already holds {what}; delete it or give another folder")


def _write_split(
    images: Path,
    split: int,
    num_videos: int,
    num_frames: int,
    height: int,
    width: int,
    seed: int,
    config: SyntheticConfig,
) -> dict[str, Any]:
    """Write the frames of one split; returns the content of its annotation file."""
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(num_videos):
        rng = np.random.default_rng([seed, split, index])
        frames, owner, classes = draw_video(rng, num_frames, height, width, config)
        folder = images / f"video_{index:04d}"
        folder.mkdir(parents=True)
        names = [f"{folder.name}/{t:05d}.jpg" for t in range(num_frames)]
        for name, frame in zip(names, frames, strict=True):
            Image.fromarray(frame).save(images / name, quality=JPEG_QUALITY)
        videos.append(
            {
                "id": index + 1,
                "height": height,
                "width": width,
                "length": num_frames,
                "file_names": names,
            }
        )
        for number, shape in enumerate(classes):
            track = _encode_track(owner == number, config.min_visible_px)
            if any(track["segmentations"]):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "video_id": index + 1,
                        "category_id": shape + 1,
                        "iscrowd": 0,
                        "height": height,
                        "width": width,
                        **track,
                    }
                )
    categories = [{"id": i, "name": name} for i, name in enumerate(config.shapes, start=1)]
    return {
        "info": {"description": "drawn by seqformer.data.synthetic"},
        "videos": videos,
        "categories": categories,
        "annotations": annotations,
    }


def _encode_track(visible: np.ndarray, min_visible_px: int) -> dict[str, list]:
    """Masks [T, H, W] bool -> the lists of an annotation, null where too little is visible."""
    rles = encode_masks(visible.transpose(1, 2, 0))
    areas = [int(area) for area in visible.sum(axis=(1, 2))]
    boxes = coco_mask.toBbox(rles).tolist()
    shown = [area >= max(min_visible_px, 1) for area in areas]
    lists = {"segmentations": rles, "bboxes": boxes, "areas": areas}
    return {
        key: [value if is_shown else None for value, is_shown in zip(values, shown, strict=True)]
        for key, values in lists.items()
    }
