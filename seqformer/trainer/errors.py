"""What the user can mend, told apart from bugs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SetupError(Exception):
    """A run cannot begin; the message says why and what to do about it."""


class DataError(Exception):
    """A clip could not be read in the middle of a run; the message names the file."""


@contextmanager
def setup_errors() -> Iterator[None]:
    """Inside, a ValueError or OSError is the user's to mend: it becomes a SetupError.

    In the training loop the same types would be bugs or broken files, and keep their traceback.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise SetupError(str(error)) from error


@contextmanager
def dead_loader_workers() -> Iterator[None]:
    """Inside, the death of a decoding process, which torch reports wherever training is just then,
    becomes a DataError."""
    try:
        yield
    except RuntimeError as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
        if not first_line.startswith("DataLoader worker"):
            raise
        raise DataError(
            f"a decoding process ended ({first_line.rstrip('. ')}), mostly for lack of memory; "
            "lower --data.num-workers"
        ) from error
