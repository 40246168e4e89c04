"""What most commands have in common: options, log, and errors as one sentence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from seqformer.command import Command


def parse(kind: Any, arguments: Sequence[str], program: str, **more: Any) -> Any:
    """The options of a command line; ends the program with exit code 2 on any mistake.

    Args:
        kind: the type of the options, a dataclass or a union of dataclasses.
        arguments: the words after the program.
        program: the command as it was typed.
        more: further arguments of `tyro.cli`.
    """
    import tyro  # a tenth of a second

    try:
        return tyro.cli(kind, args=arguments, prog=program, **more)
    except ValueError as error:  # two options that exclude one another, from a dataclass
        sys.stderr.write(f"{program}: error: {error}\n")
        sys.exit(2)


def run(
    program: str,
    options: Any,
    action: Callable[[Any], int | None],
    arguments: Sequence[str],
) -> int:
    """Parse the options, act, and turn every expected error into one sentence.

    Args:
        program: the command as it was typed, "seqformer data check".
        options: the type of the options, a dataclass or a union of dataclasses.
        action: gives the exit code; None is 0.
        arguments: the words after the program.

    Returns: the exit code; 2 if the command could not be carried out.
    """
    parsed = parse(options, arguments, program)
    log_to_stderr()
    return Command(program).run(lambda: action(parsed))


def log_to_stderr(is_verbose: bool = False) -> None:
    """What the project says from INFO on, or from DEBUG on; of other libraries, warnings."""
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("seqformer").setLevel(logging.DEBUG if is_verbose else logging.INFO)
