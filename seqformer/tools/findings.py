"""What `check` finds: each with a place, a problem, and what mending does about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

ERRORS = {
    "not-an-object": "entries that are not JSON objects",
    "bad-id": "ids that are missing or not integers",
    "duplicate-id": "ids that occur twice",
    "bad-size": "videos without a height and width",
    "no-frames": "videos without frames",
    "missing-frame": "frames that are not on disk",
    "unreadable-frame": "frames that cannot be read",
    "frame-size": "frames of another size than their video",
    "unknown-video": "annotations of unlisted videos",
    "unknown-category": "annotations of unlisted categories",
    "list-length": "lists that do not have one entry per frame",
    "bad-mask": "masks that cannot be read",
    "mask-size": "masks of another size than their video",
    "outside": "masks that reach outside of the frame",
    "empty-mask": "masks without pixels, which should be null",
    "no-mask": "annotations without any mask",
    "bad-box": "boxes that are missing, or there without a mask",
}
"""Problems that break training or scoring: kind -> heading."""
WARNINGS = {
    "duplicate-name": "categories of the same name",
    "repeated-frame": "frames that a video lists twice",
    "box-mismatch": "boxes that are not those of their masks",
    "area-mismatch": "areas that are missing or not those of their masks",
    "bad-crowd": "iscrowd that is neither 0 nor 1",
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
