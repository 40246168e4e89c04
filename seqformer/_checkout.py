"""In a checkout, `seqformer.kernels` is the folder `kernels` beside `seqformer`.

In an installed wheel it is shipped inside, and nothing here is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parent
_NAME = "seqformer.kernels"


class _Finder:
    """Finds our `kernels` by location, never by whatever else carries that name."""

    def __init__(self, origin: Path) -> None:
        self.origin = origin

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _NAME:
            return None
        folders = [str(self.origin.parent)]
        return spec_from_file_location(name, self.origin, submodule_search_locations=folders)


def find_kernels() -> None:
    """Let `import seqformer.kernels` find the folder, where it is not inside the package."""
    origin = _PACKAGE.parent / "kernels" / "__init__.py"
    if not (_PACKAGE / "kernels").exists() and origin.exists():
        sys.meta_path.append(_Finder(origin))
