"""Check an annotation file, and the frames that it lists, before days of training depend on them.

    python -m seqformer.tools.check --annotations train.json --images JPEGImages --fix mended.json

Exit code 0: nothing that breaks training or scoring; 1: something does; 2: the file cannot be
checked at all. `--fix` writes a mended file, in which a second check finds no error.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqformer.annotations.rules import is_id
from seqformer.command import exit_with
from seqformer.data.ytvis import arena_of
from seqformer.evaluation.records import Parsed, read_ground_truth
from seqformer.tools.annotation_json import Content, read_content, write_content
from seqformer.tools.check_annotations import check_annotations, mask_sizes
from seqformer.tools.check_videos import check_categories, check_videos
from seqformer.tools.command import run
from seqformer.tools.findings import ERRORS, Findings

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


def check(
    content: Content,
    images: Path | None = None,
    decode: bool = False,
    allow_outside: bool = False,
) -> tuple[Findings, Content]:
    """Find what is wrong with an annotation file.

    Args:
        content: from `read_content`; it is not changed.
        images: folder of the frames; None not to look at them.
        decode: decode them, instead of reading their headers.
        allow_outside: file names may lead out of the folder of images.

    Returns: the findings, and a mended copy. Other keys of the file are kept.
    """
    findings = Findings()
    categories, of_categories = check_categories(content, findings)
    sizes = mask_sizes(content)
    videos, of_videos = check_videos(content, sizes, images, decode, findings, allow_outside)
    listed = {
        *videos,
        *(e["id"] for e in content["videos"] if isinstance(e, dict) and is_id(e.get("id"))),
    }
    category_ids = {category["id"] for category in categories}
    references = {"video_id": (of_videos, listed), "category_id": (of_categories, category_ids)}
    annotations = check_annotations(content, videos, references, findings)
    if annotations:
        used = {entry["category_id"] for entry in annotations}
        for category in categories:
            if category["id"] not in used:
                where = f"category {category['id']} ({category['name']})"
                findings.add("unused-category", where, "has no annotations", "")
        used = {entry["video_id"] for entry in annotations}
        for number in videos:
            if number not in used:
                findings.add("empty-video", f"video {number}", "has no annotations", "")
    mended = {
        **content,
        "videos": [video.entry for video in videos.values()],
        "categories": categories,
        "annotations": annotations,
    }
    if not any(item.kind in ERRORS for item in findings.items):
        problem = refusal(content)
        if problem:
            findings.add("refused", "the file", problem, "")
    return findings, mended


def refusal(content: Content) -> str:
    """What training or scoring would say against a file; "" if both take it."""
    try:
        arena_of("the file", content)
        read_ground_truth(Parsed("the file", content))
    except ValueError as error:
        return str(error)
    return ""


def check_file(options: Options) -> int:
    """The command."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns: the exit code."""
    return run("check", Options, check_file, arguments)


if __name__ == "__main__":
    exit_with("check", main)
