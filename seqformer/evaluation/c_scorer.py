"""The C code in `native/`, bound with ctypes: where the masks of a file are, and their scores.

Without a compiler, or with SEQFORMER_KERNELS_NATIVE=0, `scorer` gives None and everything is
computed in NumPy, with the same numbers.
"""

from __future__ import annotations

import ctypes
import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from seqformer._c_library import c_library

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent / "native"
_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-ffp-contract=off")
"""Sums stay in the order in which they are written: the numbers are those of NumPy."""

SPAN = np.dtype(
    [
        ("start", np.int64),
        ("stop", np.int64),
        *((name, np.int32) for name in ("frames", "height", "width", "flags")),
    ]
)
"""`Span` of scan.h."""
MASKS = np.dtype([("text", np.uint64), ("size", np.int64), ("frames", "i4"), ("is_odd", "i4")])
"""`Masks` of scorer.c."""
MIXED_SIZES, UNUSUAL, OCCUPIED = 1, 2, 4
_WORD, _REAL, _POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
_INTERFACE = 2
"""`interface_version` of scorer.c."""
_ARGUMENTS: dict[str, list[Any]] = {
    "interface_version": [],
    "scan_results": [_POINTER, *[_WORD] * 3, *[_POINTER] * 4],
    "scan_annotations": [_POINTER, *[_WORD] * 3, *[_POINTER] * 2],
    "scan_track": [_POINTER, _WORD, _POINTER],
    "score_groups": [
        *[_WORD] * 2,
        *[_POINTER] * 5,
        _REAL,
        *[_WORD] * 2,
        *[_POINTER] * 7,
        *[_WORD] * 2,
        _POINTER,
    ],
    "track_groups": [
        *[_WORD] * 2,
        *[_POINTER] * 5,
        *[_WORD] * 2,
        *[_POINTER] * 5,
        _WORD,
        _POINTER,
        _REAL,
        *[_POINTER] * 5,
        *[_WORD] * 2,
        _POINTER,
    ],
    "assign_rows": [*[_WORD] * 2, *[_POINTER] * 2],
    "accumulate": [
        _WORD,
        *[_POINTER] * 5,
        *[_WORD] * 2,
        _POINTER,
        _WORD,
        _POINTER,
        _WORD,
        *[_POINTER] * 6,
    ],
}


def scorer() -> ctypes.CDLL | None:
    """The compiled code; None where there is none to be had, which is said once."""
    if os.environ.get("SEQFORMER_KERNELS_NATIVE") == "0":
        return None
    return _load()


@lru_cache(maxsize=1)
def _load() -> ctypes.CDLL | None:
    module = c_library()
    try:
        library = module.compiled(
            _FOLDER / "scorer.c", sorted(_FOLDER.glob("*.h")), "scorer", _FLAGS, asks=False
        )
    except module.UnavailableError as reason:
        logger.info("scoring in NumPy, which takes several times as long: %s", reason)
        return None
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, _WORD
    if library.interface_version() != _INTERFACE:
        logger.warning("scoring in NumPy: the code of this installation changed since the start")
        return None
    return library


def address(array: np.ndarray | None) -> int | None:
    """Where an array lies; it must be contiguous."""
    if array is None:
        return None
    assert array.flags.c_contiguous
    return array.ctypes.data
