"""One process, one copy: the folder of a checkout is both `kernels` and `seqformer.kernels`.

Whoever comes second answers with the modules of the first, also with those that are imported only
later (launchers, kernels), so that operators, patches and the state of backends exist once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

_HERE = Path(__file__).resolve().parent


def share_modules(first: str, second: str) -> None:
    """From now on the modules of `first`, this package's name, are those of `second`, too."""
    for name in [name for name in sys.modules if name == first or name.startswith(f"{first}.")]:
        sys.modules[second + name[len(first) :]] = sys.modules[name]
    sys.meta_path.insert(0, _Finder(first, second))


class _Finder(MetaPathFinder):
    def __init__(self, first: str, second: str) -> None:
        self._first, self._second = first, second

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(f"{self._second}."):
            return None
        inner = name[len(self._second) + 1 :]
        place = _HERE / inner.replace(".", "/")
        if not (place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()):
            return None  # of another package that shares the name
        return ModuleSpec(name, _Same(f"{self._first}.{inner}"))


class _Same(Loader):
    """Gives the module of another name; it keeps that name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
