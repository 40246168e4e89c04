"""In a checkout the folder answers to two names; there is one copy of every module."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import importlib, sys
first, second = {names!r}
first_package = importlib.import_module(first)
early = importlib.import_module(f"{{first}}.mask_head.tiles")
late = "deformable_attention.launch"
assert f"{{first}}.{{late}}" not in sys.modules
second_package = importlib.import_module(second)
assert second_package is first_package
assert importlib.import_module(f"{{second}}.mask_head.tiles") is early
of_second = importlib.import_module(f"{{second}}.{{late}}")
assert importlib.import_module(f"{{first}}.{{late}}") is of_second
assert of_second.__name__ == of_second.__spec__.name == f"{{first}}.{{late}}"
assert of_second.__package__ == f"{{first}}.deformable_attention"
importlib.reload(of_second)
code = importlib.import_module(f"{{second}}.device")
assert sum(getattr(m, "__file__", None) == code.__file__ for m in set(sys.modules.values())) == 1
try:
    importlib.import_module(f"{{second}}.nothing")
except ModuleNotFoundError as error:
    assert "nothing" in str(error)
else:
    raise AssertionError("found a module that does not exist")
"""


@pytest.mark.parametrize("names", list(permutations(("kernels", "seqformer.kernels"))))
def test_what_is_imported_later_exists_once(names):
    """Launchers are imported with the first call, by whichever name the caller uses."""
    pytest.importorskip("triton")
    code = CODE.format(names=names)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
