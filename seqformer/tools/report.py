"""The HTML report of a results file, with all its options (`eval.py --report` takes the defaults).

    python -m seqformer.tools.report --results results.json --annotations instances.json \
        --images JPEGImages --output report/
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from seqformer.command import exit_with
from seqformer.report import ReportOptions, write_report
from seqformer.tools.command import run


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


def report_file(options: Options) -> int:
    """The command."""
    if options.output.is_file():
        raise ValueError(f"--output {options.output} is a file; give a folder")
    page = write_report(
        options.annotations, options.results, options.output, options.images, options.page
    )
    sys.stdout.write(f"{page}\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns: the exit code."""
    return run("report", Options, report_file, arguments)


if __name__ == "__main__":
    exit_with("report", main)
