"""Flat annotations kept in a folder, so that a JSON is parsed once and not by every process.

A JSON of hundreds of megabytes becomes gigabytes of Python objects, and memory that held them is
not all given back. So a process of its own parses, writes the flat file, and ends.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection
from pathlib import Path

from seqformer.annotations.packed import PackedAnnotations, open_packed, save_packed
from seqformer.processes import serve
from seqformer.safe_files import check_regular

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

SMALLEST_CACHED = 4_000_000
"""Bytes; what is smaller parses at once and weighs nothing."""
_VERSION = 2
"""Of the arrays; another one makes the file anew."""


def cached_annotations(
    path: Path, kind: str, folder: Path | None, parse: Callable[[], PackedAnnotations]
) -> PackedAnnotations:
    """The annotations of `path`, from the cache or parsed.

    Files below `SMALLEST_CACHED` are parsed each time. The cache file belongs to the path, size and
    time of change of the JSON and to `kind`, what is read from it. It is written under another name
    first, and while one process of the machine parses, the others wait for it. Where the folder
    cannot be used, a warning says why and each training process makes a temporary file, which only
    its workers share.

    Args:
        folder: of the cache, made where it is missing; None makes temporary files.

    Raises: FileNotFoundError when `path` is missing; whatever `parse` raises.
    """
    status = check_regular(path, "annotation file")
    if status.st_size < SMALLEST_CACHED:
        return parse()
    if folder is None:
        return _temporary(path, parse)
    folder = folder.expanduser()
    name = f"{path.stem}-{_digest(f'{kind} {path.resolve()}')}"
    state = _digest(f"{_VERSION} {status.st_size} {status.st_mtime_ns}")
    file = folder / f"{name}-{state}.safetensors"
    if file.is_file():
        try:
            return open_packed(file)
        except ValueError as error:
            logger.warning("%s", error)
            file.unlink(missing_ok=True)
    try:
        with _lock(folder / f"{name}.lock"):
            if not file.is_file():  # else another process was faster
                logger.info("reading %s", path)
                _parse_apart(path, parse, file)
                for old in set(folder.glob(f"{name}-*.safetensors")) - {file}:
                    old.unlink(missing_ok=True)  # of the JSON before it was changed
                logger.info("its compact form is kept in %s", file)
        return open_packed(file)
    except OSError as error:
        logger.warning(
            "annotations are not cached in %s (%s); every training process reads them for itself; "
            "choose another folder with --data.annotation-cache",
            folder,
            error,
        )
        return _temporary(path, parse)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process of the machine at a time. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _temporary(path: Path, parse: Callable[[], PackedAnnotations]) -> PackedAnnotations:
    """From a file that vanishes with the last process that has it open."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "annotations.safetensors"
        _parse_apart(path, parse, file)
        return open_packed(file)


def _parse_apart(path: Path, parse: Callable[[], PackedAnnotations], file: Path) -> None:
    """Parse and save in a process of its own. Raises: what happened there."""
    if "fork" not in get_all_start_methods():  # Windows
        save_packed(parse(), file)
        return
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (f"reading {path}", _parse_and_save, parse, file, sender)
    process = context.Process(target=serve, args=arguments)
    process.start()
    sender.close()
    try:
        error = receiver.recv()
    except EOFError:
        process.join()
        raise ValueError(
            f"reading {path} ended with exit code {process.exitcode} (-9: killed by somebody, or "
            "by the system for lack of memory; -15: asked to stop)"
        ) from None
    process.join()
    if error is not None:
        raise error


def _parse_and_save(
    parse: Callable[[], PackedAnnotations], file: Path, connection: Connection
) -> None:
    try:
        save_packed(parse(), file)
    except (ValueError, OSError) as error:
        connection.send(error)
    except MemoryError:
        connection.send(OSError("memory ran out while annotations were read"))
    else:
        connection.send(None)
