"""The data commands by the names that they had before `seqformer` was installed:
`python -m seqformer.tools.check ...` is `seqformer data check ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def run(command: str, arguments: Sequence[str] | None = None) -> int:
    """A command of `seqformer`.

    Args:
        command: its words, "data check".
        arguments: those of this process by default.

    Returns: the exit code.
    """
    from seqformer.cli.main import main

    return main([*command.split(), *(sys.argv[1:] if arguments is None else arguments)])


def console(command: str) -> None:
    """`run` as the whole process."""
    from seqformer.command import exit_with

    exit_with(f"seqformer {command}", lambda: run(command))
