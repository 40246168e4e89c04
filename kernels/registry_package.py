"""Lives with the registry package that is called `kernels`, too.

Started in a checkout, `import kernels` finds this folder before that package. Libraries that use
the other one (transformers asks it for `LayerRepository`, `kernelize` and more) would fail to
import. So where this folder answers to the name `kernels`, it answers for both: our names first,
then those of the installed package, whose modules are loaded from where they lie. Installed, ours
is `seqformer.kernels`, and none of this is needed.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

NAME = "kernels"
_THEIRS = "kernels._registry_package"


def share_name(package: ModuleType, name: str) -> None:
    """Let the modules of the other package be found under `kernels`, behind ours.

    Args:
        name: that our package was just imported under; nothing happens under another.
    """
    if name != NAME:
        return
    ours = list(package.__path__)
    found = pkgutil.extend_path(ours, NAME)
    others = [path for path in found if path not in ours and Path(path, "__init__.py").exists()]
    package.__path__ = ours + others


def attribute(package: ModuleType, name: str) -> Any:
    """What the other package has under a name, where ours has nothing.

    Raises: AttributeError if `package` does not answer to `kernels`, or the other one is not
        installed or has no such name.
    """
    if sys.modules.get(NAME) is package and (name[0] != "_" or name == "__version__"):
        theirs = _load(package)
        if theirs is not None and hasattr(theirs, name):
            return getattr(theirs, name)
    raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")


def _load(package: ModuleType) -> ModuleType | None:
    """The other package's own `__init__`; None where there is no such package."""
    if _THEIRS in sys.modules:
        return sys.modules[_THEIRS]
    for folder in package.__path__:
        origin = Path(folder, "__init__.py")
        if origin.samefile(package.__file__ or ""):
            continue
        spec = importlib.util.spec_from_file_location(_THEIRS, origin)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[_THEIRS] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[_THEIRS]
            raise
        return module
    return None
