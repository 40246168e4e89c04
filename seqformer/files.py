"""Files that are written whole or not at all, and locks that end with their process.

A file is filled under a temporary name beside its own, brought to the disk, and renamed: whatever
happens, the name holds the old content or all of the new. What cannot be written is said in one
sentence that names the file.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_REMEDIES = {
    errno.ENOSPC: "free some space there, or write to another disk",
    errno.EDQUOT: "free some space there, or write to another disk",
    errno.EFBIG: "the disk, or the limit of `ulimit -f`, takes no larger files",
    errno.ENOENT: "is the folder still there, and the disk still mounted?",
    errno.EACCES: "choose a place where you may write",
    errno.EPERM: "choose a place where you may write",
    errno.EROFS: "choose a disk that can be written",
    errno.EISDIR: "it is a folder; give the name of a file",
    errno.ENOTDIR: "a part of its path is a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk reports errors",
    errno.ESTALE: "is the disk still mounted?",
}


class WriteError(OSError):
    """A file could not be written; the message says which, why, and what to do."""


class InUseError(OSError):
    """Another process works on the same files; the message says which one."""


@contextmanager
def writing_to(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Inside, what the system says of `path`, or of its temporary name, becomes a WriteError.

    Sentences of our own and what it says of other files, those that are read, stay as they are.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        own = {None, str(path), str(temporary), str(path.parent)}
        name = None if error.filename is None else str(error.filename)
        if error.errno is None or name not in own:
            raise
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> WriteError:
    """The sentence for a failure to write `path`."""
    remedy = _REMEDIES.get(error.errno or 0, "choose another place")
    sentence = WriteError(f"cannot write {path} ({error.strerror or error}); {remedy}")
    sentence.errno = error.errno
    return sentence


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, to be filled inside; afterwards it is put in place.

    Nothing is left of it when the block fails. Where `path` is a link, the file that it leads to is
    replaced. A pipe or a device is not: a file would take its name.

    Raises: WriteError naming `path`.
    """
    check_replaceable(path)
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing_to(path, temporary):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill the new content of `path`. Raises: WriteError."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        write(file)
        file.flush()  # a full disk is found here, inside the block


def write_bytes(path: Path, content: bytes) -> None:
    """The new content of `path`. Raises: WriteError."""
    write_atomically(path, lambda file: file.write(content))


def write_text(path: Path, content: str) -> None:
    """The new content of `path`, as UTF-8. Raises: WriteError."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """The new content of `path`, as JSON. Raises: WriteError."""

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8")
        json.dump(content, text)  # never the whole text at once
        text.flush()
        text.detach()

    write_atomically(path, write)


def append_line(path: Path, line: str) -> None:
    """Add one line, and its end. Raises: WriteError."""
    check_replaceable(path)
    with writing_to(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def check_replaceable(path: Path) -> None:
    """Make sure that a name is free, or that of a regular file, or one that writing will refuse.

    Raises: WriteError when it is that of a pipe, a device or a socket.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise WriteError(f"cannot write {path} (it is no regular file); give the name of a file")


def to_disk(file: IO[Any]) -> None:
    """What was written to an open file survives a power cut."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Names that were made or changed in a folder survive a power cut."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot
            raise
    finally:
        os.close(handle)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files for `path` that killed processes left; nobody may be writing it."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def make_folder(folder: Path, option: str) -> None:
    """Make a folder and try to write there.

    Args:
        option: that names another folder, for the message.

    Raises: WriteError.
    """
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
        raise WriteError(
            f"cannot write into {folder} ({error.strerror or error}); choose another {option}"
        ) from error


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Inside, no other process is in a block with the same `path`.

    The system itself ends the lock with its process, however that ends, so a lock is never left
    behind. It is an advisory lock of the file (flock). Linux keeps it on NFS, too, for all machines
    that mount the same folder; a disk that knows no locks is warned of, and then nothing is
    refused. A process may take its own lock again.

    Args:
        path: file of the lock, removed at the end; its folder is there.
        what: is in use, for the message.

    Raises: InUseError at once when another process has the lock; WriteError when the file cannot
        be made.
    """
    key = str(path.resolve())
    if key in _held:
        yield
        return
    handle = _take(path, what)
    if handle is None:
        yield
        return
    _held[key] = handle
    try:
        yield
    finally:
        del _held[key]
        with contextlib.suppress(OSError):
            path.unlink()  # while it is locked, so that nobody waits at a name that is gone
        os.close(handle)


_held: dict[str, int] = {}


def leave_locks() -> None:
    """Before this process ends without leaving its blocks: the names of its locks are removed."""
    for path in list(_held):
        with contextlib.suppress(OSError):
            os.unlink(path)


def _release_in_child() -> None:
    """A forked child shares its parent's lock while it has the handle open."""
    for handle in _held.values():
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)


def _take(path: Path, what: str) -> int | None:
    """The locked handle of a file that has this name; None where the disk knows no locks."""
    if fcntl is None:
        logger.warning(
            "%s cannot be locked (this system has no flock): do not start a second run there", path
        )
        return None
    while True:
        with writing_to(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                break
            os.close(handle)  # its last owner has just removed the name
        except BlockingIOError:
            owner = os.pread(handle, 200, 0).decode(errors="replace").strip()
            os.close(handle)
            raise InUseError(
                f"{what} is in use by another process ({owner or 'which has just begun'}); wait "
                "for it, stop it, or choose another --output"
            ) from None
        except FileNotFoundError:
            os.close(handle)
        except OSError as error:
            os.close(handle)
            logger.warning(
                "%s cannot be locked (%s): do not start a second run there", path, error.strerror
            )
            return None
    import socket

    with contextlib.suppress(OSError):  # the name of the owner is not worth a failure
        os.truncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return handle


def natural_key(name: str) -> list[str | int]:
    """Numbers inside names count as numbers: frame2 before frame10."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))  # text, digits, text, ...
    parts[1::2] = [int(digits) for digits in parts[1::2]]
    return parts
