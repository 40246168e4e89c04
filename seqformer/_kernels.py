"""Finds our `kernels` package by location, never by whatever else carries that name.

In a checkout it is the folder beside `seqformer/`; in an installed wheel it is shipped inside, as
`seqformer.kernels`. An unrelated registry package called `kernels` is neither used nor shadowed.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parent


_NAME = "seqformer.kernels"


def _load() -> ModuleType:
    inside = _PACKAGE / "kernels" / "__init__.py"
    origin = inside if inside.exists() else _PACKAGE.parent / "kernels" / "__init__.py"
    if not origin.exists():
        raise ImportError(f"our kernels package is missing at {origin}; reinstall seqformer")
    for name in (_NAME, "kernels"):
        loaded = sys.modules.get(name)
        if loaded is not None and Path(loaded.__file__ or "").resolve() == origin:
            return _answer_to_our_name(loaded, name)
    spec = importlib.util.spec_from_file_location(
        _NAME, origin, submodule_search_locations=[str(origin.parent)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[_NAME]
        raise
    return module


def _answer_to_our_name(module: ModuleType, name: str) -> ModuleType:
    """A checkout's `kernels`, imported first, is `seqformer.kernels` too, with its submodules."""
    for key in [k for k in sys.modules if k == name or k.startswith(name + ".")]:
        sys.modules.setdefault(_NAME + key[len(name) :], sys.modules[key])
    return module


kernels = _load()
