"""Other layouts -> an annotation file in YouTube-VIS layout.

seqformer data convert cvat export.zip DATA
seqformer data convert labelme FOLDER DATA
seqformer data convert coco export.zip DATA
seqformer data convert davis --masks Annotations/480p --images JPEGImages/480p --output d.json
seqformer data convert mots --masks instances --images image_02 --output mots.json
seqformer data convert coco-video --annotations cocovid.json --output ytvis.json
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, subcommand

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


@dataclass(frozen=True, kw_only=True)
class Cvat:
    """An export of CVAT: "CVAT for video 1.1" or "CVAT for images 1.1", with images if possible."""

    source: Positional[Path]
    """The zip, its annotations.xml, or a folder of zips."""
    output: Positional[Path]
    """Folder to write instances.json and JPEGImages/ into."""
    frames: Path | None = None
    """The video file of the task, where the export holds no images."""
    boxes: bool = False
    """Take boxes as objects with all their pixels; by default they are left out."""
    groups: Literal["join", "ignore"] = "join"
    """join: shapes and tracks of one group and label are one object."""
    overlap: Literal["keep", "cut"] = "keep"
    """cut: what a shape of higher z order covers does not belong to the one below."""


@dataclass(frozen=True, kw_only=True)
class Labelme:
    """Files of labelme: a folder per video, a JSON file per frame, the object in group_id."""

    source: Positional[Path]
    """The folder, or a zip of it."""
    output: Positional[Path]
    """Folder to write instances.json and JPEGImages/ into."""
    images: Path | None = None
    """Folder of the frames where they are neither beside the JSON files nor inside: as exported."""
    boxes: bool = False
    """Take rectangles as objects with all their pixels; by default they are left out."""


@dataclass(frozen=True, kw_only=True)
class Coco:
    """A COCO file whose images are frames, with track ids: CVAT's COCO export and others."""

    source: Positional[Path]
    """The zip, the JSON file, or a folder with images and the file."""
    output: Positional[Path]
    """Folder to write instances.json and JPEGImages/ into."""
    frames: Path | None = None
    """The video file, where the export holds no images."""


Options = (
    Annotated[Cvat, subcommand("cvat")]
    | Annotated[Labelme, subcommand("labelme")]
    | Annotated[Coco, subcommand("coco")]
    | Annotated[Davis, subcommand("davis")]
    | Annotated[Mots, subcommand("mots")]
    | Annotated[CocoVideo, subcommand("coco-video")]
)


def act(options: Cvat | Labelme | Coco | Davis | Mots | CocoVideo) -> None:
    """The command."""
    if isinstance(options, Cvat | Labelme | Coco):
        logger.info("wrote %s", _from_tool(options))
        return
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


def _from_tool(options: Cvat | Labelme | Coco) -> Path:
    from seqformer.tools.exchange.convert import convert_coco, convert_cvat, convert_labelme
    from seqformer.tools.exchange.cvat_read import CvatOptions

    if options.output.is_file():
        raise ValueError(f"{options.output} is a file; give a folder")
    if isinstance(options, Labelme):
        return convert_labelme(options.source, options.output, options.boxes, options.images)
    if isinstance(options, Coco):
        return convert_coco(options.source, options.output, options.frames)
    settings = CvatOptions(options.boxes, options.groups == "join", options.overlap == "cut")
    return convert_cvat(options.source, options.output, options.frames, settings)
