"""Files that cases read: drawn once a machine, into its temporary folder, and used again.

The sides of a case, and the fresh processes that measure their memory, all find the same files. The
folder's name holds a digest of the code that draws and of its arguments, so that a change of either
draws anew.
"""

from __future__ import annotations

import getpass
import hashlib
import inspect
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PREFIX = "seqformer-bench"


def drawn(draw: Callable[..., None], *arguments: Any) -> Path:
    """The folder that `draw(folder, *arguments)` has filled.

    Args:
        draw: a function of a module; deterministic.
        arguments: plain values.
    """
    source = Path(inspect.getsourcefile(draw) or "").read_bytes()
    name = f"{draw.__module__}.{draw.__qualname__}{arguments!r}".encode()
    digest = hashlib.sha256(source + name).hexdigest()[:16]
    parent = Path(tempfile.gettempdir())
    folder = parent / f"{PREFIX}-{getpass.getuser()}-{digest}"
    if folder.is_dir():
        return folder
    unfinished = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-", dir=parent))
    try:
        draw(unfinished, *arguments)
        os.rename(unfinished, folder)
    except FileExistsError:  # another process was faster
        shutil.rmtree(unfinished)
    except OSError:
        shutil.rmtree(unfinished)
        if not folder.is_dir():
            raise
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    return folder
