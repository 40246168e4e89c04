"""`seqformer data convert`, by its former name."""

from __future__ import annotations

from collections.abc import Sequence

from seqformer.former import console, run


def main(arguments: Sequence[str] | None = None) -> int:
    """`seqformer data convert`, by its former name."""
    return run("data convert", arguments)


if __name__ == "__main__":
    console("data convert")
