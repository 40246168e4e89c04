"""Annotations or results -> files that an annotation tool reads, to be corrected there.

seqformer data export cvat --annotations instances.json --results results.json --output corrections
seqformer data export labelme --annotations instances.json --images JPEGImages --output corrections
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import subcommand

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Given:
    annotations: Path
    """Annotation file of the videos; without --results its own objects are written."""
    output: Path
    """Folder to write into."""
    results: Path | None = None
    """Results of a model on these videos."""
    min_score: float = 0.3
    """Results below this score are left out."""


@dataclass(frozen=True, kw_only=True)
class Cvat(_Given):
    """CVAT's XML 1.1, a file per video: upload it as "CVAT 1.1" to the task with these frames."""

    shapes: Literal["masks", "tracks"] = "masks"
    """tracks: polygons along the edges of the pixels, which CVAT edits as tracks. Masks it takes
    frame by frame only; those of one object have one group."""


@dataclass(frozen=True, kw_only=True)
class Labelme(_Given):
    """A folder per video, a JSON file per frame, to be opened by labelme."""

    images: Path | None = None
    """Folder that the file names start from; without it the frames are looked for beside."""


Options = Annotated[Cvat, subcommand("cvat")] | Annotated[Labelme, subcommand("labelme")]


def act(options: Cvat | Labelme) -> None:
    """The command."""
    from seqformer.tools.exchange.corrections import read_corrections
    from seqformer.tools.exchange.cvat_write import write_cvat
    from seqformer.tools.exchange.labelme import write_labelme

    if not 0 <= options.min_score <= 1:
        raise ValueError(f"--min-score must lie in 0..1, got {options.min_score}")
    if options.output.is_file():
        raise ValueError(f"--output {options.output} is a file; give a folder")
    videos, labels = read_corrections(options.annotations, options.results, options.min_score)
    if isinstance(options, Labelme):
        written = write_labelme(videos, options.output, options.images)
    else:
        written = write_cvat(videos, labels, options.output, options.shapes == "tracks")
    for path in written:
        logger.info("wrote %s", path)
