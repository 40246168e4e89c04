"""Opening files that somebody else made: regular ones only, and no larger inside than they say.

Every reader of the project goes through here. A pipe or a device in the place of a file is refused
and not waited for; what a file would unpack to is known before it is unpacked. Two limits may be
raised by environment variables: they refuse, they never change a result.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

PIXELS_VARIABLE = "SEQFORMER_MAX_PIXELS"
"""Environment variable: most pixels (height x width) of a picture or a frame of a video."""
MAX_PIXELS = 2**27
"""Its default: 134 million, four frames of 8K."""
UNPACKED_VARIABLE = "SEQFORMER_MAX_UNPACKED_MIB"
"""Environment variable: most MiB that a compressed file (results, weights) may unpack to."""
MAX_UNPACKED_MIB = 4096
"""Its default."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def check_regular(path: Path, what: str = "file") -> os.stat_result:
    """Make sure that `path` is a regular file, without opening it.

    Args:
        what: to call it in messages: "frame", "annotation file", ...

    Raises: FileNotFoundError; ValueError when it is a pipe, a device, a socket or a folder; other
        OSErrors of the file system (permission, name too long, a loop of links).
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{what} {path} does not exist; check the path") from None
    except ValueError:  # a NUL inside the name
        raise FileNotFoundError(f"{what} {str(path)!r} is no file name; check the path") from None
    _refuse_special(path, status, what)
    return status


def open_regular(path: Path, what: str = "file") -> BinaryIO:
    """Open a regular file for reading. Raises: as `check_regular`."""
    check_regular(path, what)
    # Should it have become a pipe meanwhile: without O_NONBLOCK, opening would wait for a writer.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse_special(path, os.fstat(handle), what)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, what: str = "file") -> bytes:
    """The bytes of a regular file. Raises: as `check_regular`."""
    with open_regular(path, what) as file:
        return file.read()


def inside(folder: Path, name: str, *, allow_outside: bool = False) -> Path:
    """`folder / name`, which must not leave the folder by an absolute name or by "..".

    Symbolic links are followed wherever they lead: data sets are often made of links, and who may
    make links in the folder of images may as well put files there.

    Args:
        allow_outside: take the name as it is.

    Raises: ValueError naming the name and the folder.
    """
    if allow_outside:
        return folder / name
    if "\0" in name:
        raise ValueError(f"{name!r} is no file name")
    parts = PurePosixPath(name).parts
    depth = 0
    for part in parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or part == "/":
            break
    else:
        return folder / name
    raise ValueError(
        f"the file name {name!r} leads out of the image folder {folder}; if that is meant, "
        "allow it with --allow-outside (training: --data.allow-outside)"
    )


def max_pixels() -> int:
    """Most pixels of a picture. Raises: ValueError when the variable holds no number."""
    return _limit(PIXELS_VARIABLE, MAX_PIXELS)


def check_pixels(height: int, width: int, what: str) -> None:
    """Refuse a picture that is too large, before it is decoded.

    Raises: ValueError naming `what`, its size and the variable that raises the limit.
    """
    most = max_pixels()
    if height * width > most:
        raise ValueError(
            f"{what} says that it has {height} x {width} pixels, more than {most}; if that is "
            f"meant, raise the limit with {PIXELS_VARIABLE}"
        )


def check_unpacked(path: Path, unpacked: int, packed: int) -> None:
    """Refuse what unpacks to far more than its own size and than the limit.

    Args:
        unpacked: bytes that the file declares.
        packed: bytes that it has.

    Raises: ValueError naming the file and the variable that raises the limit.
    """
    most = _limit(UNPACKED_VARIABLE, MAX_UNPACKED_MIB)
    if unpacked > max(packed, most * 2**20):
        raise ValueError(
            f"{path} would unpack to {unpacked / 2**20:.0f} MiB, more than {most}; if that is "
            f"meant, raise the limit with {UNPACKED_VARIABLE}"
        )


def read_zipped(path: Path, member: str) -> bytes:
    """One member of a zip file.

    Raises: FileNotFoundError; ValueError naming the file when it is no sound zip, has no such
        member, is encrypted, or would unpack to more than the limit.
    """
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                entry = archive.getinfo(member)
                check_unpacked(path, entry.file_size, os.fstat(file.fileno()).st_size)
                return archive.read(entry)
        except KeyError:
            raise ValueError(f"{path} is no zip with a {member} at its top level") from None
        except _ZIP_ERRORS as error:
            problem = str(error) or type(error).__name__
            raise ValueError(
                f"{path} is damaged or no usual zip: {member} cannot be unpacked ({problem})"
            ) from None


def is_zip(path: Path, what: str = "file") -> bool:
    """Whether a regular file looks like a zip. Raises: as `check_regular`."""
    with open_regular(path, what) as file:
        try:
            return zipfile.is_zipfile(file)
        except OSError:
            return False


def _lzma_errors() -> tuple[type[Exception], ...]:
    try:
        from lzma import LZMAError
    except ImportError:
        return ()
    return (LZMAError,)


_ZIP_ERRORS: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    NotImplementedError,  # an unknown method of compression
    RuntimeError,  # encrypted
    EOFError,
    OSError,
    MemoryError,
    *_lzma_errors(),
)


def _limit(variable: str, default: int) -> int:
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"{variable} is {text!r}; needed is a whole number above 0")
    return int(text)


def _refuse_special(path: Path, status: os.stat_result, what: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
    raise ValueError(f"{what} {path} is {kind}, not a regular file; it is not read")
