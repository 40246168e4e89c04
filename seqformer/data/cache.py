"""Flat annotations kept in a folder, so that a JSON is parsed once and not by every process."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from seqformer.data.arena import Arena, open_arena, save_arena

logger = logging.getLogger(__name__)

SMALLEST_CACHED = 4_000_000
"""Bytes; what is smaller parses at once and weighs nothing."""
_VERSION = 1
"""Of the arrays; another one makes the file anew."""


def cached_arena(path: Path, kind: str, folder: Path | None, parse: Callable[[], Arena]) -> Arena:
    """The annotations of `path`, from the cache or parsed.

    Files below `SMALLEST_CACHED` are parsed each time. The cache file belongs to the path, size and
    time of change of the JSON and to `kind`, what is read from it. It is written under another name
    first, and while one process of the machine parses, the others wait for it. Where the folder
    cannot be used, a warning says why and each process keeps its own copy in memory, which only its
    workers share.

    Args:
        folder: of the cache, made where it is missing; None keeps the annotations in memory.

    Raises: FileNotFoundError when `path` is missing; whatever `parse` raises.
    """
    if not path.is_file():
        raise FileNotFoundError(f"annotation file {path} does not exist; check the path")
    status = path.stat()
    if folder is None or status.st_size < SMALLEST_CACHED:
        return _parsed(parse)
    folder = folder.expanduser()
    name = f"{path.stem}-{_digest(f'{kind} {path.resolve()}')}"
    state = _digest(f"{_VERSION} {status.st_size} {status.st_mtime_ns}")
    file = folder / f"{name}-{state}.safetensors"
    if file.is_file():
        return open_arena(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{name}.lock"):
            if file.is_file():  # another process was faster
                return open_arena(file)
            arena = _parsed(parse)
            try:
                save_arena(arena, file)
            except OSError as error:
                _warn(folder, error)
                return arena
            for old in set(folder.glob(f"{name}-*.safetensors")) - {file}:
                old.unlink(missing_ok=True)  # of the JSON before it was changed
            logger.info("%s: %d videos, kept in %s", path, len(arena.arrays.video_ids), file)
            return open_arena(file)
    except _UnusableFolderError as error:
        _warn(folder, error)
        return _parsed(parse)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _UnusableFolderError(Exception):
    pass


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process of the machine at a time."""
    try:
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise _UnusableFolderError(error) from error
    with file:
        yield


def _parsed(parse: Callable[[], Arena]) -> Arena:
    """Parse, and give the memory of the JSON's objects back to the system.

    Otherwise it would stay with this process, and workers forked from it would account for a share.
    """
    arena = parse()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return arena


def _warn(folder: Path, error: Exception) -> None:
    logger.warning(
        "annotations are not cached in %s (%s); every process parses and keeps its own copy; "
        "choose a folder with --data.annotation-cache",
        folder,
        error,
    )
