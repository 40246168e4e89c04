"""`kernels/c_library.py`, loaded by its path: importing `seqformer.kernels` would load torch.

Scoring has C code of its own and never needs torch.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

_NAME = "seqformer._compiled_c"


@lru_cache(maxsize=1)
def c_library() -> ModuleType:
    """The module that compiles and loads C files."""
    package = find_spec("seqformer.kernels")  # found, not run
    assert package is not None and package.origin is not None
    spec = spec_from_file_location(_NAME, Path(package.origin).with_name("c_library.py"))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)
    return module
