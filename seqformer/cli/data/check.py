"""Check an annotation file, and the frames that it lists, before days of training depend on them.

    seqformer data check --annotations train.json --images JPEGImages --fix mended.json

Exit code 0: nothing that breaks training or scoring; 1: something does; 2: the file cannot be
checked at all. `--fix` writes a mended file, in which a second check finds no error.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Check an annotation file in YouTube-VIS layout against itself and the frames on disk."""

    annotations: Path
    """File to check; it stays as it is."""
    images: Path | None = None
    """Folder that the file names start from; without it frames are not looked at."""
    decode: bool = False
    """Decode every frame, to find files that were cut off; by default only headers are read."""
    fix: Path | None = None
    """Write a mended file here."""
    output: Path | None = None
    """Write all findings here, as JSON."""
    limit: int = 10
    """Lines printed for each kind of problem."""
    allow_outside: bool = False
    """File names may lead out of the folder of images."""
    strict: bool = False
    """Warnings, too, give exit code 1."""


def act(options: Options) -> int:
    """The command."""
    from seqformer.tools.annotation_json import read_content, write_content
    from seqformer.tools.check import check, refusal

    if options.images is not None and not options.images.is_dir():
        raise ValueError(f"image folder {options.images} does not exist; check the path")
    if options.decode and options.images is None:
        raise ValueError("--decode needs --images, the folder of the frames")
    if options.limit < 0:
        raise ValueError(f"--limit must be 0 or more, got {options.limit}")
    content = read_content(options.annotations)
    findings, mended = check(content, options.images, options.decode, options.allow_outside)
    sys.stdout.write(findings.text(options.limit) + "\n")
    if options.output is not None:
        write_content(options.output, findings.to_list())
    if options.fix is not None:
        write_content(options.fix, mended)
        logger.info(
            "%s: %d of %d videos, %d of %d annotations",
            options.fix,
            len(mended["videos"]),
            len(content["videos"]),
            len(mended["annotations"]),
            len(content["annotations"]),
        )
        problem = refusal(mended)
        if problem:
            logger.error("%s cannot be used even so: %s", options.fix, problem)
            return 1
    failed = len(findings.items) if options.strict else findings.num_errors
    return 1 if failed else 0
