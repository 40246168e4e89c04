"""Ids that cannot stay: new ones for them, and for whatever refers to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from seqformer.annotations.rules import is_id


class Ids:
    """The ids of videos or categories as they will be written."""

    def __init__(self, values: Iterable[Any]) -> None:
        """
        Args:
            values: all that the file lists, sound or not.
        """
        self._free = max((value for value in values if is_id(value)), default=0)
        self._new: dict[str, int] = {}

    def renumber(self, value: Any) -> int | None:
        """A new id for one that is none; None where nothing can refer to it."""
        if value is None or isinstance(value, list | dict):
            return None
        key = _key(value)
        if key not in self._new:
            self._free += 1
            self._new[key] = self._free
        return self._new[key]

    def find(self, value: Any, listed: Iterable[int]) -> int | None:
        """The listed id that a reference means, in whatever spelling; None where there is none."""
        if is_id(value) and value in listed:
            return value
        if isinstance(value, list | dict) or value is None:
            return None
        key = _key(value)
        if key in self._new:
            return self._new[key]
        return next((number for number in listed if str(number) == key), None)


def _key(value: Any) -> str:
    """The same for 3, 3.0 and "3"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
