"""After the model's first training step, and after its first video, Triton compiles nothing.

The operators alone are asked in `tests/kernels/test_recompilation.py`. The tests proper are in
`inner_recompilation.py` and run in a process of their own.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.bench.offline.emulator.processes import start

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")


def test_in_a_process_that_compiles():
    done = start("-m", "pytest", "-q", "tests/bench/offline/emulator/inner_recompilation.py")
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
