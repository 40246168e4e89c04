"""How a process of several ends when something went wrong: it says so, and is gone.

Leaving a process group in good order takes everyone: NCCL's end waits for its peers, who wait for a
collective of ours until the time limit. So on an error nothing is taken down. What is to be said is
written first, and the process ends at once; its closed connections tell the others.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn


def is_one_of_several() -> bool:
    """Whether torchrun started this process with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def end_process(message: str, code: int = 1) -> NoReturn:
    """Write a sentence to stderr and end the process; one of several does so without taking leave
    of the others."""
    print(message, file=sys.stderr, flush=True)
    if is_one_of_several():
        _leave(code)
    sys.exit(code)


def end_with_traceback() -> NoReturn:
    """In an `except` block: for an error that is none of the user's. Where the process is alone,
    the error goes on as it would."""
    if not is_one_of_several():
        raise
    traceback.print_exc()
    _leave(1)


def _leave(code: int) -> NoReturn:
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)
