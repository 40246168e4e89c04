"""Annotation and results files whose masks stay text; everything else is read as ever.

The C code finds the masks in one pass over the bytes. It takes a file only if all is as usual: what
it has a doubt about, the plain reader reads, or says what is wrong.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from seqformer.annotations.json_file import MEMBER
from seqformer.annotations.mask_text import FileText, MaskText
from seqformer.evaluation.c_scorer import MIXED_SIZES, SPAN, UNUSUAL, address, scorer
from seqformer.safe_files import is_zip, open_regular, read_zipped

WINDOW = 2**22
"""Bytes of a mapped file that lie in memory at a time."""
_LEAST_RESULT = 58
"""Bytes of the shortest result with its comma, and..."""
_LEAST_ANNOTATION = 20
"""...of the shortest annotation with masks."""


@dataclass(frozen=True, slots=True)
class ResultColumns:
    """A results file. D results in the order of the file."""

    file: FileText
    video_ids: np.ndarray
    """[D] int64."""
    category_ids: np.ndarray
    """[D] int64."""
    scores: np.ndarray
    """[D] float64."""
    spans: np.ndarray
    """[D] of `SPAN`."""

    def __len__(self) -> int:
        return len(self.scores)

    def masks(self, number: int) -> MaskText:
        """Those of one result."""
        return mask_text(self.file, self.spans[number])


def mask_text(file: FileText, span: Any) -> MaskText:
    """What a `SPAN` says."""
    start, stop, frames, height, width, flags = span.item()
    is_mixed, is_unusual = bool(flags & MIXED_SIZES), bool(flags & UNUSUAL)
    size = (height, width) if height and not is_mixed else None
    return MaskText(file, start, stop, frames, size, is_mixed, is_unusual)


def scan_results(path: Path) -> ResultColumns | None:
    """The results of a file; None if the plain reader must read it.

    Raises: as `json_file.read_json_file` where the file cannot be opened.
    """
    library = scorer()
    if library is None or (file := _open(path, "results file")) is None:
        return None
    size = len(file.array)
    capacity = size // _LEAST_RESULT + 1
    video_ids, category_ids = np.empty((2, capacity), np.int64)  # never touched beyond the last
    scores, spans = np.empty(capacity), np.empty(capacity, SPAN)
    count = library.scan_results(
        file.address,
        size,
        WINDOW * file.is_mapped,
        capacity,
        *map(address, (video_ids, category_ids, scores, spans)),
    )
    if count < 0:
        return None
    columns = (column[:count].copy() for column in (video_ids, category_ids, scores, spans))
    return ResultColumns(file, *columns)


def scan_annotations(path: Path) -> dict[str, Any] | None:
    """The content of an annotation file with `MaskText` for masks, likewise."""
    library = scorer()
    if library is None or (file := _open(path, "annotations file")) is None:
        return None
    size = len(file.array)
    capacity = size // _LEAST_ANNOTATION + 1
    positions, spans = np.empty(capacity, np.int64), np.empty(capacity, SPAN)
    count = library.scan_annotations(
        file.address,
        size,
        WINDOW * file.is_mapped,
        capacity,
        *map(address, (positions, spans)),
    )
    if count < 0:
        return None
    texts = [mask_text(file, span) for span in spans[:count]]
    done = 0
    pieces: list[bytes] = []
    for text in texts:
        pieces += file.content[done : text.start], b"[]"
        done = text.stop
    try:
        content = orjson.loads(b"".join([*pieces, file.content[done:]]))
    except orjson.JSONDecodeError:
        return None
    for position, text in zip(positions[:count].tolist(), texts, strict=True):
        content["annotations"][position]["segmentations"] = text
    return content


def scan_list(segmentations: list[Any]) -> MaskText | None:
    """Masks that are Python objects, as text; None where they are not as usual."""
    library = scorer()
    assert library is not None
    if not all(mask is None or _is_rle(mask) or mask in ([], "", {}) for mask in segmentations):
        return None  # the parser writes NaN as null, and a tuple as a list
    try:
        text = orjson.dumps(segmentations, option=orjson.OPT_PASSTHROUGH_SUBCLASS)
    except TypeError:
        return None
    file, span = FileText(text), np.empty(1, SPAN)
    if not library.scan_track(file.address, len(text), address(span)):
        return None
    return mask_text(file, span[0])


def _is_rle(mask: Any) -> bool:
    return type(mask) is dict and type(mask.get("counts")) in (str, list)


def _open(path: Path, what: str) -> FileText | None:
    """None for an empty file."""
    if is_zip(path, what):
        return FileText(read_zipped(path, MEMBER))
    with ExitStack() as stack:
        file = stack.enter_context(open_regular(path, what))
        if not path.stat().st_size:
            return None
        return FileText(mmap(file.fileno(), 0, access=ACCESS_READ))
