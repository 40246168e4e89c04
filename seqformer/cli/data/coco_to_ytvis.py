"""Make the still images' annotation file of joint training from COCO's own.

seqformer data coco-to-ytvis instances_train2017.json --categories 2019
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Options:
    """Keep of a COCO annotation file what a video set can use, under the video set's categories."""

    source: Annotated[Path, tyro.conf.Positional]
    """COCO annotation file, such as instances_train2017.json."""
    output: Path | None = None
    """File to write; default beside the source, coco_keepfor_ytvis2019.json and alike."""
    categories: Literal["2019", "2019_published", "2021", "ovis"] = "2019"
    """Video set to map to: YouTube-VIS 2019 or 2021, or OVIS. 2019_published repeats the slip of
    the published map, mouse as fox."""
    like: Path | None = None
    """Annotation file of your own videos, instead of --categories: its categories are matched to
    COCO's by name (capitals, blanks and underscores do not matter)."""


def act(options: Options) -> None:
    """The command."""
    from seqformer.tools.coco_to_ytvis import convert_file

    convert_file(options.source, options.output, options.categories, options.like)
