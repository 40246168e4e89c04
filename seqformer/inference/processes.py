"""Helper processes of inference: they must neither outlive their parent nor answer Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import parent_process


def serve_parent() -> None:
    """Call first in a helper process: it ends when the parent does, however that happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us in good order
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent) -> None:
    parent.join()
    os._exit(1)
