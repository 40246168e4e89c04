"""The stand-in driver: Triton's own launch path in front, nothing left behind.

The tests proper are in `inner_driver.py` and run in a process of their own.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.bench.offline.emulator.processes import start

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")


def test_in_a_process_that_compiles():
    done = start("-m", "pytest", "-q", "tests/bench/offline/emulator/inner_driver.py")
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def test_interpreted_kernels_are_refused():
    code = "from bench.offline.emulator.session import emulated\nwith emulated(80): pass"
    code = "import os; os.environ['TRITON_INTERPRET'] = '1'\n" + code
    done = start("-c", code)
    assert done.returncode == 1 and "unset TRITON_INTERPRET" in done.stdout
