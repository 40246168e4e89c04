"""Check an annotation file, and the frames that it lists, before days of training depend on them.

Exit code 0: nothing that breaks training or scoring; 1: something does; 2: the file cannot be
checked at all. `--fix` writes a mended file, in which a second check finds no error.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from seqformer.annotations.rules import is_id
from seqformer.annotations.ytvis import pack_annotations
from seqformer.evaluation.records import Parsed, read_ground_truth
from seqformer.former import Former
from seqformer.tools.annotation_json import Content
from seqformer.tools.check_annotations import check_annotations, mask_sizes
from seqformer.tools.check_videos import check_categories, check_videos
from seqformer.tools.findings import ERRORS, Findings
from seqformer.tools.references import Ids


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
    references: dict[str, tuple[Ids, Collection[int]]] = {
        "video_id": (of_videos, listed),
        "category_id": (of_categories, category_ids),
    }
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
        pack_annotations("the file", content)
        read_ground_truth(Parsed("the file", content))
    except ValueError as error:
        return str(error)
    return ""


main = Former("data check")

if __name__ == "__main__":
    main.console()
