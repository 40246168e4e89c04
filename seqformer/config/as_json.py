"""A config as plain JSON types, and back."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from seqformer.config.fields import grouped, nested_class


def config_to_dict(config: Any) -> dict:
    """A config as plain JSON types (paths become strings)."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return plain(asdict(config))


def flat_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, "data.num_frames" -> 5."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def config_from_dict(cls: type, state: dict) -> Any:
    """Inverse of `config_to_dict` for a config of known class; takes flat tables of old runs, too.

    Raises: ValueError naming fields that the class does not have, or whose value is of another
        kind.
    """
    if not isinstance(state, dict):
        raise ValueError(f"{cls.__name__} is to be made of {state!r:.40}, which is no table")
    state = grouped(cls, state)
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    unknown = sorted(set(state) - set(known))
    if unknown:
        raise ValueError(f"{cls.__name__} has no fields {unknown}; the file is of another version")
    values = {}
    for name, value in state.items():
        kind = nested_class(known[name])
        if kind is not None:
            value = config_from_dict(kind, value)
        else:
            value = _as_held(value, "Path" in str(known[name].type))
        if kind is None and not _is_of(value, hints[name]):
            raise ValueError(f"{cls.__name__}.{name} is {value!r:.60}; needed is {hints[name]}")
        values[name] = value
    return cls(**values)


def _as_held(value: Any, is_path: bool) -> Any:
    """Lists of JSON become tuples, and texts paths where the field holds such."""
    if isinstance(value, list):
        return tuple(_as_held(one, is_path) for one in value)
    return Path(value) if is_path and isinstance(value, str) else value


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in arguments)
    if origin in (Union, UnionType):
        return any(_is_of(value, a) for a in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_is_of(v, arguments[0]) for v in value)
        return len(value) == len(arguments) and all(map(_is_of, value, arguments))
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint if hint in (int, bool, str) else isinstance(value, hint)
