"""Launching: what goes wrong before a kernel runs is said in one sentence."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from kernels.launch import MAX_PROGRAMS, Variant


class Kernel:
    """Stands for a kernel; a launch of it fails with `error`."""

    def __init__(self, error=None):
        self.error, self.grids = error, []

    def __getitem__(self, grid):
        def run(**arguments):
            self.grids.append(grid)
            if self.error is not None:
                raise self.error

        return run


def variant(kernel):
    return Variant(kernel=kernel, types={}, constants={}, num_warps=1, rows=1)


@pytest.mark.skipif(find_spec("triton") is None, reason="names Triton's version")
def test_interpreter_and_numpy_that_do_not_fit():
    """What Triton 3.6 says of NumPy 2.4."""
    error = TypeError("only 0-dimensional arrays can be converted to Python scalars")
    with pytest.raises(RuntimeError, match=r"cannot interpret kernels with NumPy .*'numpy<2.4'"):
        variant(Kernel(error)).run(1, {})


def test_other_errors_stay():
    with pytest.raises(TypeError, match="something else"):
        variant(Kernel(TypeError("something else"))).run(1, {})


def test_grids():
    kernel = Kernel()
    variant(kernel).run(0, {})
    assert kernel.grids == []
    variant(kernel).run(3, {})
    assert kernel.grids == [(3,)]
    with pytest.raises(ValueError, match="split the batch"):
        variant(kernel).run(MAX_PROGRAMS + 1, {})
