"""What a field of a config says of itself, beside its default, type and text."""

from __future__ import annotations

from dataclasses import Field, fields, is_dataclass, replace
from typing import Any, TypeVar

Config = TypeVar("Config")

MAY_CHANGE = {"may_change": True}
"""Metadata of a field: a run may be resumed with another value of it, or of anything below it, as
it decides where files lie, how long a run is, how often it reports or how it is executed. Any other
change would silently make another run."""
GROUP = {"group": True}
"""Metadata of a field: it holds a config whose own fields are options of the run under their plain
names (`--precision`, not `--compute.precision`). Before there were groups, `config.json` held them
in one flat table, which still loads."""


def nested_class(of: Field[Any]) -> type | None:
    """The class of the config that a field holds; None where it holds a plain value."""
    made_by = of.default_factory
    return made_by if isinstance(made_by, type) and is_dataclass(made_by) else None


def changeable(kind: type, prefix: str = "", is_inside: bool = False) -> set[str]:
    """Dotted names ("data.num_workers") of what may change when a run is resumed."""
    names: set[str] = set()
    for one in fields(kind):
        may = is_inside or bool(one.metadata.get("may_change"))
        inner = nested_class(one)
        if inner is not None:
            names |= changeable(inner, f"{prefix}{one.name}.", may)
        elif may:
            names.add(prefix + one.name)
    return names


def groups(kind: type) -> dict[str, str]:
    """Name of every option in a group of a config's class -> name of the group."""
    return {
        option.name: one.name
        for one in fields(kind)
        if one.metadata.get("group")
        for option in fields(nested_class(one))  # type: ignore[arg-type]
    }


def grouped(kind: type, options: dict[str, Any]) -> dict[str, Any]:
    """A table whose flat options have moved into tables of their groups; others stay."""
    places, moved = groups(kind), dict(options)
    for name, place in places.items():
        if name in moved:
            value = moved.pop(name)
            inner = moved.get(place, {})
            moved[place] = {**inner, name: value} if isinstance(inner, dict) else inner
    return moved


def override(config: Config, **options: Any) -> Config:
    """The same config with other values, given by the names of the options.

    `override(config, precision="bf16")` is `replace(config, compute=replace(config.compute, ...))`.
    Raises: TypeError on a name that the config does not have; ValueError on conflicts.
    """
    changes = grouped(type(config), options)
    places = set(groups(type(config)).values()) & set(changes)
    for place in places:
        if isinstance(changes[place], dict):
            changes[place] = replace(getattr(config, place), **changes[place])
    return replace(config, **changes)  # type: ignore[type-var]
