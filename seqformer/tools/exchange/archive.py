"""What an annotation tool exported: a zip file, a folder, or a single file. Nothing is unpacked.

Names inside are looked up and never written to, so no name can lead out of a folder; names that try
are refused all the same, because no tool writes them.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from seqformer.files import natural_key
from seqformer.safe_files import check_regular, check_unpacked, is_zip, open_regular, read_regular
from seqformer.tools.track_builder import IMAGE_SUFFIXES


class Archive:
    """The files of an export by their names, "/" between folders."""

    def __init__(self, path: Path, names: list[str], archive: zipfile.ZipFile | None) -> None:
        """Use `open_archive`."""
        self.path = path
        self.names = sorted(names, key=natural_key)
        self._zip = archive
        self._unpacked = 0
        self._by_ending: dict[str, list[str]] | None = None
        self.embedded: dict[str, Callable[[], bytes]] = {}
        """Pictures that are inside other files, by names that they are given."""

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises: ValueError when it cannot be unpacked or is too large."""
        if name in self.embedded:
            return self.embedded[name]()
        if self._zip is None:
            return read_regular(self.path / name if self.path.is_dir() else self.path)
        entry = self._zip.getinfo(name)
        self._unpacked += entry.file_size
        check_unpacked(self.path, self._unpacked, self.path.stat().st_size)
        try:
            return self._zip.read(entry)
        except Exception as error:  # zlib, lzma, encryption, unknown methods: many types
            raise ValueError(
                f"{self.path} is damaged or no usual zip: {name} cannot be unpacked ({error})"
            ) from None

    def images(self) -> list[str]:
        """The pictures, in natural order."""
        return [name for name in self.names if _suffix(name) in IMAGE_SUFFIXES]

    def find_image(self, name: str) -> str | None:
        """The picture that a frame's name means: the same, or with folders before it, any suffix.

        Raises: ValueError when several do.
        """
        if self._by_ending is None:
            self._by_ending = {}
            for image in self.images():
                parts = PurePosixPath(image).with_suffix("").parts
                for start in range(len(parts)):
                    self._by_ending.setdefault("/".join(parts[start:]), []).append(image)
        whole = name.replace("\\", "/").lstrip("/")
        stem = whole[: -len(_suffix(whole))] if _suffix(whole) in IMAGE_SUFFIXES else whole
        images = self._by_ending.get(stem, [])
        exact = [image for image in images if image == whole or image.endswith("/" + whole)]
        images = exact or images
        if len(images) > 1:
            raise ValueError(
                f"{self.path} has {len(images)} pictures for the frame {name} ({images[0]}, "
                f"{images[1]}); export one task at a time"
            )
        return images[0] if images else None


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an export.

    Raises: FileNotFoundError; ValueError when a zip is damaged or has a name that leads out of it.
    """
    if path.is_dir():
        yield Archive(path, _walk(path), None)
        return
    check_regular(path, "export")
    if not is_zip(path):
        yield Archive(path, [path.name], None)
        return
    with open_regular(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{path} is damaged or no usual zip ({error})") from None
        with archive:
            names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
            for name in names:
                parts = PurePosixPath(name.replace("\\", "/")).parts
                if ".." in parts or parts[:1] == ("/",) or ":" in parts[0]:
                    raise ValueError(f"{path} holds {name!r}, a name that leads out of the archive")
            yield Archive(path, names, archive)


def _walk(root: Path) -> list[str]:
    names = []
    for folder, folders, files in os.walk(root):
        folders.sort()
        names += [(Path(folder) / file).relative_to(root).as_posix() for file in files]
    return names


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
