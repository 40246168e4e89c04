"""What `check` finds: each with a place, a problem, and what mending does about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

ERRORS = {
    "not-an-object": "entries that are not JSON objects",
    "nothing-listed": "lists of videos or categories without an entry",
    "bad-id": "ids that are missing or not integers from 0 to 2**64 - 1",
    "duplicate-id": "ids of videos or categories that occur twice",
    "bad-size": "videos without a height and width",
    "no-frames": "videos without frames",
    "leaves-folder": "file names that lead out of the image folder",
    "missing-frame": "frames that are not on disk",
    "unreadable-frame": "frames that cannot be read",
    "frame-size": "frames of another size than their video",
    "list-length": "masks that are not a list with one entry per frame",
    "bad-mask": "masks that cannot be read",
    "mask-size": "masks of another size than their video",
    "bad-crowd": "iscrowd that is neither 0 nor 1 in any spelling",
    "refused": "anything else that training or scoring refuses",
}
"""Problems that break training or scoring: kind -> heading."""
WARNINGS = {
    "unknown-video": "annotations of unlisted videos, which are left out",
    "unknown-category": "annotations of unlisted categories, which are left out",
    "outside": "masks that reach outside of the frame, where they are cut off",
    "empty-mask": "masks without pixels, which should be null",
    "no-mask": "annotations without any mask",
    "bad-box": "boxes that are missing or unusable beside a mask, or there without one",
    "box-mismatch": "boxes that are not those of their masks",
    "area-mismatch": "areas that are missing or not those of their masks",
    "odd-crowd": "iscrowd in an unusual spelling",
    "no-name": "categories without a name",
    "no-id": "annotations without an id, or with that of an earlier one",
    "duplicate-name": "categories of the same name",
    "repeated-frame": "frames that a video lists twice",
    "turned-frame": "frames with an EXIF orientation, which are read as they are stored",
    "unused-category": "categories without annotations",
    "empty-video": "videos without annotations",
}
"""Oddities: training and scoring work, perhaps not as intended."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem."""

    kind: str
    """A key of `ERRORS` or `WARNINGS`."""
    where: str
    """Entry, id and frame."""
    problem: str
    fix: str
    """What `--fix` does; empty if nothing."""


@dataclass
class Findings:
    """All problems of a file, in the order of the file."""

    items: list[Finding] = field(default_factory=list)

    def add(self, kind: str, where: str, problem: str, fix: str) -> None:
        """Record a problem."""
        assert kind in ERRORS or kind in WARNINGS, kind
        self.items.append(Finding(kind, where, problem, fix))

    @property
    def num_errors(self) -> int:
        """Problems that are not mere warnings."""
        return sum(item.kind in ERRORS for item in self.items)

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values for JSON."""
        return [asdict(item) for item in self.items]

    def text(self, limit: int) -> str:
        """For reading: grouped by kind, at most `limit` lines of each."""
        counts = Counter(item.kind for item in self.items)
        lines = []
        for level, kinds in (("error", ERRORS), ("warning", WARNINGS)):
            for kind, heading in kinds.items():
                if not counts[kind]:
                    continue
                lines.append(f"{level}: {counts[kind]} {heading} ({kind})")
                of_kind = [item for item in self.items if item.kind == kind]
                for item in of_kind[:limit]:
                    remedy = f" -> {item.fix}" if item.fix else ""
                    lines.append(f"    {item.where}: {item.problem}{remedy}")
                if len(of_kind) > limit:
                    lines.append(f"    ... and {len(of_kind) - limit} more (--limit shows more)")
        num_warnings = len(self.items) - self.num_errors
        lines.append(f"{self.num_errors} errors, {num_warnings} warnings")
        return "\n".join(lines)
