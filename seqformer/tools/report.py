"""`seqformer report`, by its former name."""

from __future__ import annotations

from collections.abc import Sequence

from seqformer.former import console, run


def main(arguments: Sequence[str] | None = None) -> int:
    """`seqformer report`, by its former name."""
    return run("report", arguments)


if __name__ == "__main__":
    console("report")
