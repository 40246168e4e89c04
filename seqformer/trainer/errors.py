"""What the user can mend, told apart from bugs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from seqformer.command import sentence_of


class SetupError(Exception):
    """A run cannot begin; the message says why and what to do about it."""


class DataError(Exception):
    """A clip could not be read in the middle of a run; the message names the file."""


class MemoryShortageError(Exception):
    """A step did not fit into memory; the message says what needs less."""


class StoppedError(Exception):
    """The run was asked to stop while it validated."""


@contextmanager
def setup_errors() -> Iterator[None]:
    """Inside, a ValueError or OSError is the user's to mend: it becomes a SetupError.

    In the training loop the same types would be bugs or broken files, and keep their traceback.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise SetupError(sentence_of(error)) from error
