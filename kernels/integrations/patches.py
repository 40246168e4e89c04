"""What an adapter replaced in another library, and how to put it back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

_shared: dict[tuple[int, str], list[Any]] = {}
"""By owner and name: what was there first, and how many patches want it replaced."""


class Patch:
    """Replacements that are in force until `undo`, or until the end of a `with`.

    Patches of one object are undone in the reverse of the order in which they were made.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def keep(self, owner: Any, name: str) -> None:
        """Note an attribute of a module, a class or an object before somebody replaces it."""
        own = vars(owner)
        if name in own:
            before = own[name]
            self._undo.append(lambda: setattr(owner, name, before))
        else:
            self._undo.append(lambda: delattr(owner, name) if name in vars(owner) else None)

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute."""
        self.keep(owner, name)
        setattr(owner, name, value)

    def share(self, owner: Any, name: str, make: Callable[[Any], Any]) -> Any:
        """Replace an attribute that several patches replace alike; the last one restores it.

        Args:
            make: from what was there to what replaces it.

        Returns: what was there first.
        """
        key = (id(owner), name)
        if key not in _shared:
            before = getattr(owner, name)
            _shared[key] = [before, 0]
            setattr(owner, name, make(before))
        _shared[key][1] += 1
        self._undo.append(lambda: _release(owner, name))
        return _shared[key][0]

    def provide(self, name: str, module: ModuleType) -> None:
        """Let `import name` find a module that is not installed."""
        sys.modules[name] = module
        self._undo.append(lambda: _forget(name, module))

    def undo(self) -> None:
        """Restore what was there. A second call does nothing."""
        while self._undo:
            self._undo.pop()()

    def __len__(self) -> int:
        return len(self._undo)

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.undo()


def _release(owner: Any, name: str) -> None:
    key = (id(owner), name)
    _shared[key][1] -= 1
    if not _shared[key][1]:
        setattr(owner, name, _shared.pop(key)[0])


def _forget(name: str, module: ModuleType) -> None:
    if sys.modules.get(name) is module:
        del sys.modules[name]
