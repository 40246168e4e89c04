"""Exports of annotation tools -> a data set: `instances.json` and a folder of frames per video."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from seqformer.files import make_folder
from seqformer.tools.annotation_json import write_content
from seqformer.tools.exchange.archive import Archive, open_archive
from seqformer.tools.exchange.coco_sequences import coco_files, read_coco
from seqformer.tools.exchange.cvat_read import CvatOptions, read_cvat
from seqformer.tools.exchange.drawn_videos import DrawnVideo, to_content
from seqformer.tools.exchange.frame_files import safe_names, write_frames
from seqformer.tools.exchange.labelme import read_labelme

logger = logging.getLogger(__name__)

ANNOTATIONS = "instances.json"
IMAGES = "JPEGImages"
Read = Callable[[Archive], tuple[list[DrawnVideo], list[str]]]
"""Videos of an export and its labels."""


def convert_cvat(
    source: Path, output: Path, film: Path | None = None, options: CvatOptions | None = None
) -> Path:
    """Convert an export of CVAT (a zip, an XML file, or a folder of these).

    Args:
        output: folder to write into.
        film: the video that the export is of, where it holds no pictures.

    Returns: the annotation file.
    Raises: FileNotFoundError, ValueError or WriteError naming the file and what is wrong.
    """
    settings = options or CvatOptions()

    def read(archive: Archive) -> tuple[list[DrawnVideo], list[str]]:
        names = [name for name in archive.names if name.lower().endswith(".xml")]
        if not names:
            raise ValueError(
                f"{archive.path} holds no annotations.xml; export the task as CVAT for video 1.1 "
                "or CVAT for images 1.1"
            )
        return _joined([read_cvat(archive, name, settings, output) for name in names])

    return _convert(_sources(source), output, film, read, "cvat")


def convert_coco(source: Path, output: Path, film: Path | None = None) -> Path:
    """Convert a COCO file whose images are frames (a zip, a folder or the file itself).

    Args, returns and raises: as `convert_cvat`.
    """

    def read(archive: Archive) -> tuple[list[DrawnVideo], list[str]]:
        return _joined([read_coco(archive, name) for name in coco_files(archive)])

    return _convert(_sources(source), output, film, read, "coco")


def convert_labelme(
    source: Path, output: Path, take_boxes: bool = False, images: Path | None = None
) -> Path:
    """Convert a folder (or a zip) of labelme: a folder per video, a JSON file per frame.

    Args:
        images: folder that the files may refer to; without it, pictures are beside them or inside.

    Raises: as `convert_cvat`.
    """

    def read(archive: Archive) -> tuple[list[DrawnVideo], list[str]]:
        return read_labelme(archive, take_boxes, output, images)

    return _convert([source], output, None, read, "labelme")


def _sources(source: Path) -> list[Path]:
    """The exports that a path means: itself, or the zip files in a folder."""
    if not source.is_dir():
        return [source]
    return sorted(path for path in source.iterdir() if path.suffix.lower() == ".zip") or [source]


def _joined(
    files: Sequence[tuple[list[DrawnVideo], list[str]]],
) -> tuple[list[DrawnVideo], list[str]]:
    videos = [video for own, _ in files for video in own]
    return videos, list(dict.fromkeys(label for _, labels in files for label in labels))


def _convert(
    sources: Sequence[Path], output: Path, film: Path | None, read: Read, tool: str
) -> Path:
    make_folder(output, "output folder")
    videos: list[DrawnVideo] = []
    labels: list[str] = []
    names: list[list[str]] = []
    for source in sources:
        with open_archive(source) as archive:
            own, own_labels = read(archive)
            if film is not None and (len(own) > 1 or len(sources) > 1):
                raise ValueError("--frames is the film of one video, but the export has several")
            labels += [label for label in own_labels if label not in labels]
            for video in own:
                videos.append(video)
                folder = safe_names([v.name for v in videos])[-1]
                written = write_frames(video, output / IMAGES / folder, archive, film)
                if written is None:
                    logger.warning(
                        "%s holds no pictures of %s; only its annotations are written (--frames "
                        "gives the video)",
                        source,
                        video.name,
                    )
                    written = [f"{t:05d}.jpg" for t in range(len(video.frames))]
                names.append([f"{folder}/{name}" for name in written])
    annotations = output / ANNOTATIONS
    write_content(annotations, to_content(videos, labels, names, tool))
    return annotations
