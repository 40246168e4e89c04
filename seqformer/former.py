"""The data commands by the names that they had before `seqformer` was installed:
`python -m seqformer.tools.check ...` is `seqformer data check ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


class Former:
    """The `main` of a module that was a command.

    Attributes:
        command: the words of the command that does its work now, "data check".
    """

    def __init__(self, command: str) -> None:
        self.command = command

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run it with these arguments, by default those of this process. Returns: the exit code."""
        from seqformer.cli.main import main

        return main([*self.command.split(), *(sys.argv[1:] if arguments is None else arguments)])

    def console(self) -> NoReturn:
        """The same as the whole process."""
        from seqformer.command import exit_with

        exit_with(f"seqformer {self.command}", self)
