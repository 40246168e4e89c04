"""What every command has in common: options, log, and errors as one sentence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from seqformer.command import Command

Options = TypeVar("Options")


def run(
    name: str,
    options: Callable[..., Options],
    action: Callable[[Options], int],
    arguments: Sequence[str] | None,
) -> int:
    """Parse the options, act, and turn every expected error into one sentence.

    Args:
        name: of the command.
        options: the type of the options, a dataclass or a union of dataclasses.
        action: gives the exit code.
        arguments: of the command line; None for those of this process.

    Returns: the exit code; 2 if the command could not be carried out.
    """
    parsed: Any = tyro.cli(options, args=arguments, prog=f"python -m seqformer.tools.{name}")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    for noisy in ("PIL", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return Command(name).run(lambda: action(parsed))
