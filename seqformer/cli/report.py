"""The HTML report of a results file, with all its options (`eval.py --report` takes the defaults).

seqformer report --results results.json --annotations instances.json --images JPEGImages \
        --output report/
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from seqformer.config import ReportOptions


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a page with the AP, its failures and all videos, which opens without a server."""

    results: Path
    """Results file (.json, or the .zip of a submission)."""
    annotations: Path
    """Annotation file with ground truth."""
    output: Path
    """Folder to write index.html and analysis.json into."""
    images: Path | None = None
    """Folder that the file names start from; without it masks are shown on an empty ground."""
    page: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def act(options: Options) -> None:
    """The command."""
    from seqformer.report import write_report

    if options.output.is_file():
        raise ValueError(f"--output {options.output} is a file; give a folder")
    page = write_report(
        options.annotations, options.results, options.output, options.images, options.page
    )
    sys.stdout.write(f"{page}\n")
