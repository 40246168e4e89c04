"""Other layouts -> an annotation file in YouTube-VIS layout.

seqformer data convert davis --masks Annotations/480p --images JPEGImages/480p --output d.json
seqformer data convert mots --masks instances --images image_02 --output mots.json
seqformer data convert coco-video --annotations cocovid.json --output ytvis.json
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import subcommand

from seqformer.cli.command import run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Davis:
    """Palette PNG files as in DAVIS and YouTube-VOS: a folder per video, an index per instance."""

    masks: Path
    """Folder of the folders of masks."""
    output: Path
    """File to write."""
    images: Path | None = None
    """Folder of the frames, named like the masks; without it .jpg files are assumed."""
    category: str = "object"
    """Class of the instances that --labels does not name."""
    labels: Path | None = None
    """JSON with class names: {"video": {"1": "person", "2": "horse"}}."""


@dataclass(frozen=True, kw_only=True)
class Mots:
    """16-bit PNG files of KITTI MOTS and MOTSChallenge: class * 1000 + instance."""

    masks: Path
    """Folder of the folders of masks."""
    output: Path
    """File to write."""
    images: Path | None = None
    """Folder of the frames, named like the masks; without it .jpg files are assumed."""
    classes: tuple[tuple[int, str], ...] = ((1, "car"), (2, "pedestrian"))
    """Class ids and names: --classes 1 car 2 pedestrian."""


@dataclass(frozen=True, kw_only=True)
class CocoVideo:
    """COCO-video JSON (CocoVID): one annotation per instance and image."""

    annotations: Path
    """File to convert."""
    output: Path
    """File to write."""


Options = (
    Annotated[Davis, subcommand("davis")]
    | Annotated[Mots, subcommand("mots")]
    | Annotated[CocoVideo, subcommand("coco-video")]
)


def act(options: Davis | Mots | CocoVideo) -> None:
    """The command."""
    from seqformer.tools.annotation_json import write_content
    from seqformer.tools.convert_coco_video import from_coco_video
    from seqformer.tools.convert_masks import from_mots, from_palette, read_labels_file

    if isinstance(options, Davis):
        labels = read_labels_file(options.labels)
        content = from_palette(options.masks, options.images, options.category, labels)
    elif isinstance(options, Mots):
        content = from_mots(options.masks, options.images, dict(options.classes))
    else:
        content = from_coco_video(options.annotations)
    write_content(options.output, content)
    logger.info("wrote %s", options.output)


def main(arguments: Sequence[str], program: str = "seqformer data convert") -> int:
    """Entry point. Returns: the exit code."""
    return run(program, Options, act, arguments)
