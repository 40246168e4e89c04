"""Finds our `kernels` package by location, never by whatever else carries that name.

In a checkout it is the folder beside `seqformer/`; in an installed wheel it is shipped inside, as
`seqformer.kernels`. An unrelated registry package called `kernels` is neither used nor shadowed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parent


def _load() -> ModuleType:
    beside = _PACKAGE.parent / "kernels" / "__init__.py"
    inside = _PACKAGE / "kernels" / "__init__.py"
    origin = inside if inside.exists() else beside
    for name in ("seqformer.kernels", "kernels"):
        loaded = sys.modules.get(name)
        if loaded is not None and Path(loaded.__file__ or "").resolve() == origin:
            return loaded
    if origin is inside:
        return importlib.import_module("seqformer.kernels")
    name = "seqformer.kernels"
    spec = importlib.util.spec_from_file_location(
        name, origin, submodule_search_locations=[str(origin.parent)]
    )
    if spec is None or spec.loader is None or not origin.exists():
        raise ImportError(f"our kernels package is missing at {origin}; reinstall seqformer")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return sys.modules[name]


kernels = _load()
