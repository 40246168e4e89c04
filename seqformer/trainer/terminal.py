"""What a run says on the terminal: lines around the progress bar."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress

from tqdm import tqdm

from seqformer.command import leave_output
from seqformer.trainer.run_log import LOG_NAME


def setup_logging(is_main: bool) -> None:
    """INFO on rank 0, warnings elsewhere. Lines go around the progress bar, to stdout; warnings to
    stderr."""
    handler = _TqdmHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("seqformer")
    package.handlers[:] = [handler]
    package.propagate = False
    package.setLevel(logging.INFO if is_main else logging.WARNING)


class _TqdmHandler(logging.Handler):
    """To standard output as long as somebody takes it: a run does not end with its terminal."""

    is_read = True

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            with suppress(OSError, ValueError):
                tqdm.write(self.format(record), file=sys.stderr)
                sys.stderr.flush()
            return
        if not self.is_read:
            return
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            self.is_read = False
            leave_output()
            with suppress(OSError, ValueError):
                sys.stderr.write(
                    f"standard output cannot be written any more ({error.strerror}); the run goes "
                    f"on, and so does its {LOG_NAME}\n"
                )
