"""Names of categories where an annotation file and a checkpoint both have a say. Needs no torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seqformer.structures import ClassMap

logger = logging.getLogger(__name__)


def warn_about_categories(categories: Mapping[int, str], classes: ClassMap | None) -> None:
    """Say where the annotation file and the checkpoint mean different things by an id."""
    if not categories or classes is None:
        return
    known = class_names({}, classes)
    renamed = [
        f"{i} is {name!r} in the file, {known[i]!r} in the checkpoint"
        for i, name in sorted(categories.items())
        if i in known and known[i] != name
    ]
    absent = [f"{i} ({name})" for i, name in sorted(categories.items()) if i not in known]
    foreign = [f"{i} ({name})" for i, name in sorted(known.items()) if i not in categories]
    for problem, listed in (
        ("mean something else", renamed),
        ("are not known to the checkpoint, which will never find them", absent),
        ("are found by the checkpoint but not listed in the file", foreign),
    ):
        if listed:
            more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
            logger.warning(
                "the annotation file's categories differ from those of the checkpoint: %d %s: %s%s",
                len(listed),
                problem,
                "; ".join(listed[:5]),
                more,
            )


def class_names(categories: Mapping[int, str], classes: ClassMap | None) -> dict[int, str]:
    """Category id -> name; the checkpoint has the last word."""
    if classes is None:
        return dict(categories)
    named = zip(classes.ids, classes.names, strict=True)
    return {**categories, **{i: n for i, n in named if i >= 0 and n and n != f"unused_{i}"}}
