"""Reading the JSON files of annotations and results: the same for everybody who reads them."""

from __future__ import annotations

import json
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import orjson

from seqformer.annotations.run_lists import compress_run_lists
from seqformer.safe_files import is_zip, open_regular, read_zipped

MEMBER = "results.json"
"""What a zip for the benchmark's server holds."""


def read_json_file(path: Path, what: str, *, compress_lists: bool = False) -> Any:
    """What a JSON file holds, or the `results.json` of a zip.

    NaN and numbers beyond 64 bits are read, as Python writes them; who uses one says what is wrong.

    Args:
        what: to call the file in messages: "annotation file", "results file".
        compress_lists: run lengths that are lists of numbers come back as compressed text, which
            means the same and takes a tenth of the time and memory.

    Raises: FileNotFoundError; ValueError naming a file that is no regular file, no complete JSON,
        or no sound zip.
    """
    if is_zip(path, what):
        return _parsed(path, read_zipped(path, MEMBER))
    with open_regular(path, what) as file:
        if not path.stat().st_size:
            raise ValueError(f"{path} is not complete JSON (it is empty); write the file again")
        # Without a copy of the bytes in memory.
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            if compress_lists:
                return _parsed(path, compress_run_lists(_text(path, content)))
            with memoryview(content) as view:
                return _parsed(path, view)


def parse_json(content: bytes | memoryview | str) -> Any:
    """The value of a JSON text. Raises: ValueError, RecursionError."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:  # NaN, huge numbers, a mark of the byte order
        return json.loads(content if isinstance(content, str) else str(content, "utf-8-sig"))


def _parsed(path: Path, content: bytes | memoryview | str) -> Any:
    try:
        return parse_json(content)
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"{path} is not complete JSON ({error}); was it copied completely? Write it again, or "
            "unpack it first"
        ) from None


def _text(path: Path, content: mmap) -> str:
    try:
        return str(content, "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not complete JSON ({error}); write the file again, or unpack it first"
        ) from None
