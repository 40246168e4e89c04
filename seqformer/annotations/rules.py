"""What the values of an annotation or results file must be: the sentences, once, for all readers.

`where` is the file and the entry, for messages.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from seqformer.annotations.mask_text import MaskText

MAX_ID = 2**64 - 1
"""Hashes of 64 bits serve as ids."""


def get_id(entry: dict[str, Any], key: str, where: str) -> int:
    """An id. Raises: ValueError unless it is a whole number from 0 to 2**64 - 1."""
    if key not in entry:
        raise ValueError(f'{where} has no "{key}"; needed is an integer')
    if not is_id(entry[key]):
        raise ValueError(
            f"{where}: {key} is {entry[key]!r:.40}; needed is an integer from 0 to 2**64 - 1"
        )
    return entry[key]


def is_id(value: Any) -> bool:
    """Whether a value can be an id."""
    return type(value) is int and 0 <= value <= MAX_ID


def get_list(content: dict[str, Any], key: str, where: str) -> list[Any]:
    """A list. Raises: ValueError."""
    if not isinstance(content.get(key), list):
        raise ValueError(f'{where} needs a list "{key}", got {kind(content.get(key))}')
    return content[key]


def get_segmentations(entry: dict[str, Any], where: str) -> Any:
    """One mask or null per frame, not checked: a list or `MaskText`. Raises: ValueError."""
    segmentations = entry.get("segmentations")
    if not isinstance(segmentations, list | MaskText):
        raise ValueError(
            f'{where} needs a list "segmentations" with a mask or null for every frame, got '
            f"{kind(segmentations)}"
        )
    return segmentations


def get_object(entry: Any, where: str) -> dict[str, Any]:
    """A JSON object. Raises: ValueError."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {kind(entry)}; needed is an object")
    return entry


def get_number(value: Any, key: str, where: str) -> float:
    """A finite number. Raises: ValueError."""
    if value is None:
        raise ValueError(f'{where} has no "{key}"; needed is a number')
    if not is_number(value):
        raise ValueError(f"{where}: {key} is {value!r:.40}; needed is a finite number")
    return float(value)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def get_name(category: dict[str, Any], category_id: int) -> str:
    """The name of a category; its id in words where it has none that is text or a number."""
    name = category.get("name")
    return str(name) if type(name) in (str, int, float) and name != "" else f"class {category_id}"


def is_crowd(value: Any, where: str) -> bool:
    """The meaning of `iscrowd`: 0 or 1, as a number, truth value or text; missing and null are 0.

    A list has one entry per frame; the track is a crowd if it is one in every frame that says so.
    Raises: ValueError.
    """
    if type(value) is int and value in (0, 1):  # nearly always
        return bool(value)
    if isinstance(value, list):
        told = [is_crowd(one, where) for one in value if one is not None]
        return bool(told) and all(told)
    if value is None or value in ("0", "1"):
        return value == "1"
    if type(value) not in (bool, float) or value not in (0, 1):
        raise ValueError(f"{where}: iscrowd is {value!r:.40}; needed is 0 or 1")
    return bool(value)


def mean_area(areas: Any) -> float | None:
    """Mean of the entries of `areas` that are not 0 or null; None where that is no list of numbers,
    so that the masks must tell."""
    if not isinstance(areas, list):
        return None
    occupied = [area for area in areas if area]
    if not all(map(is_number, occupied)):
        return None
    if set(map(type, occupied)) == {int} and (total := sum(occupied)) < 2**53:
        return total / len(occupied)  # the same, and sooner
    return float(np.mean(occupied)) if occupied else 0.0


def get_box(box: Any) -> tuple[float, float, float, float] | None:
    """[x, y, width, height] of finite numbers; None for anything else."""
    if not isinstance(box, list) or len(box) != 4:
        return None
    for number in box:
        if type(number) not in (int, float) or not math.isfinite(number):
            return None
    return box[0], box[1], box[2], box[3]


def get_file_names(video: dict[str, Any], where: str) -> tuple[str, ...] | None:
    """The frames of a video; None where the file does not list them. Raises: ValueError."""
    names = video.get("file_names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where} has file_names that are not a list of names")
    for name in names:
        if not name or "\0" in name or (not name.isascii() and _has_surrogates(name)):
            raise ValueError(f"{where} has the file name {name!r:.60}, which is none")
    if not names:
        raise ValueError(f"{where} has no frames; remove it from the file or list its frames")
    return tuple(names)


def kind(value: Any) -> str:
    """A JSON value in words."""
    if value is None:
        return "nothing"
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a truth value"}
    return kinds.get(type(value), f"{value!r:.40}")


def _has_surrogates(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
