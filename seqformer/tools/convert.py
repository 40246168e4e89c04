"""Other layouts -> an annotation file in YouTube-VIS layout.

    python -m seqformer.tools.convert davis --masks Annotations/480p --images JPEGImages/480p \
        --output davis.json
    python -m seqformer.tools.convert mots --masks instances --images image_02 --output mots.json
    python -m seqformer.tools.convert coco-video --annotations cocovid.json --output ytvis.json
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import subcommand

from seqformer.command import exit_with
from seqformer.tools.annotation_json import Content, write_content
from seqformer.tools.command import run
from seqformer.tools.convert_coco_video import from_coco_video
from seqformer.tools.convert_masks import from_mots, from_palette, read_labels_file

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

    def convert(self) -> Content:
        """The annotation file."""
        return from_palette(self.masks, self.images, self.category, read_labels_file(self.labels))


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

    def convert(self) -> Content:
        """The annotation file."""
        return from_mots(self.masks, self.images, dict(self.classes))


@dataclass(frozen=True, kw_only=True)
class CocoVideo:
    """COCO-video JSON (CocoVID): one annotation per instance and image."""

    annotations: Path
    """File to convert."""
    output: Path
    """File to write."""

    def convert(self) -> Content:
        """The annotation file."""
        return from_coco_video(self.annotations)


Options = (
    Annotated[Davis, subcommand("davis")]
    | Annotated[Mots, subcommand("mots")]
    | Annotated[CocoVideo, subcommand("coco-video")]
)


def convert_files(options: Davis | Mots | CocoVideo) -> int:
    """The command."""
    write_content(options.output, options.convert())
    logger.info("wrote %s", options.output)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns: the exit code."""
    return run("convert", Options, convert_files, arguments)


if __name__ == "__main__":
    exit_with("convert", main)
