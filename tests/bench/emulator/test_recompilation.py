"""After the first training step, and after the first video, Triton compiles nothing.

The tests proper are in `inner_recompilation.py` and run in a process of their own.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.bench.emulator.processes import start

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")


def test_in_a_process_that_compiles():
    done = start("-m", "pytest", "-q", "tests/bench/emulator/inner_recompilation.py")
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
