"""The masks of an instance as they stand in a file: read when they are needed, and only then.

A results file of validation size has 73,000 masks. As Python objects they take most of the time and
memory of scoring it, and only the C code that compares them ever looks inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from mmap import mmap
from typing import Any

import numpy as np


class FileText:
    """The bytes of a file, in memory or mapped."""

    def __init__(self, content: bytes | mmap) -> None:
        self.content = content
        self.array = np.frombuffer(content, np.uint8)
        self.is_mapped = isinstance(content, mmap)

    @property
    def address(self) -> int:
        """Where the first byte lies."""
        return int(self.array.ctypes.data)


@dataclass(frozen=True, slots=True)
class MaskText:
    """One "segmentations" list of a file whose JSON was found to be sound."""

    file: FileText
    start: int
    stop: int
    """From the opening bracket to behind the closing one."""
    num_frames: int
    size: tuple[int, int] | None
    """(height, width) of all masks; None where there is none or they differ."""
    is_mixed: bool
    """The masks are of different size."""
    is_unusual: bool
    """An entry is neither null, nor empty, nor an RLE."""

    def __len__(self) -> int:
        return self.num_frames

    def is_all_of(self, size: tuple[int, int]) -> bool:
        """Whether all masks are known to be of a size."""
        return not self.is_mixed and not self.is_unusual and self.size in (None, size)

    def text(self) -> bytes:
        """As they stand there."""
        return self.file.content[self.start : self.stop]

    def load(self) -> list[Any]:
        """What the JSON parser makes of it."""
        from seqformer.annotations.json_file import parse_json

        return parse_json(self.text())


def mask_list(segmentations: list[Any] | MaskText) -> list[Any]:
    """One entry per frame."""
    return segmentations.load() if isinstance(segmentations, MaskText) else segmentations
