"""Launching: what goes wrong before a kernel runs is said in one sentence, and what is compiled for
other arguments is not launched with these."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from kernels.device import DeviceFacts, replaced
from kernels.launch import LARGEST_INT32, MAX_PROGRAMS, KernelVariant, Launch, aligned

CPU = torch.device("cpu")


class Compiled:
    """Stands for a compiled kernel: notes its launches, and their streams."""

    def __init__(self):
        self.given, self.streams = [], []

    def __getitem__(self, grid):
        def run(*arguments, stream):
            self.given.append((grid, arguments))
            self.streams.append(stream)

        return run


class Kernel:
    """Stands for a kernel of a tensor, a number and a constant; a launch of it fails with `error`.

    Attributes:
        grids: of launches by Triton's own way.
        compiled: what those return.
    """

    arg_names = ("x", "n", "BLOCK")

    def __init__(self, error=None, is_free=False):
        self.error, self.grids, self.compiled = error, [], Compiled()
        self.params = [
            SimpleNamespace(num=i, name=name, do_not_specialize_on_alignment=is_free)
            for i, name in enumerate(self.arg_names)
        ]

    def __getitem__(self, grid):
        def run(*arguments, **options):
            self.grids.append(grid)
            if self.error is not None:
                raise self.error
            return self.compiled

        return run


def launch_of(kernel):
    types = {"x": "*fp32", "n": "i32"}
    return Launch(
        KernelVariant(kernel=kernel, types=types, constants={"BLOCK": 8}, num_warps=1, rows=1)
    )


@pytest.mark.skipif(find_spec("triton") is None, reason="names Triton's version")
def test_interpreter_and_numpy_that_do_not_fit():
    """What Triton 3.6 says of NumPy 2.4."""
    error = TypeError("only 0-dimensional arrays can be converted to Python scalars")
    with pytest.raises(RuntimeError, match=r"cannot interpret kernels with NumPy .*'numpy<2.4'"):
        launch_of(Kernel(error)).run(1, CPU, torch.zeros(1), 1)


def test_other_errors_stay():
    with pytest.raises(TypeError, match="something else"):
        launch_of(Kernel(TypeError("something else"))).run(1, CPU, torch.zeros(1), 1)


def test_grids():
    kernel = Kernel()
    launch = launch_of(kernel)
    launch.run(0, CPU, torch.zeros(1), 1)
    launch.run((3, 0, 1), CPU, torch.zeros(1), 1)
    assert kernel.grids == []
    launch.run(3, CPU, torch.zeros(1), 1)
    assert kernel.grids == [(3, 1, 1)]
    for grid in (MAX_PROGRAMS + 1, (1, 65_536, 1), (1, 1, 65_536)):
        with pytest.raises(ValueError, match="split the batch"):
            launch.run(grid, CPU, torch.zeros(1), 1)


def test_what_is_compiled_is_launched_without_triton_binding_again():
    kernel = Kernel()
    launch, x = launch_of(kernel), torch.zeros(8)
    launch.run(1, CPU, x, 5)
    launch.run((2, 3, 4), CPU, x, LARGEST_INT32)
    assert kernel.grids == [(1, 1, 1)]
    assert kernel.compiled.given == [((2, 3, 4), (x, LARGEST_INT32, 8))]


@pytest.mark.parametrize("is_first", [False, True])
def test_other_arguments_are_compiled_for_anew(is_first):
    """A number of 64 bits, and a pointer off the alignment: Triton's own way, and not kept."""
    for x, n in ((torch.zeros(8), LARGEST_INT32 + 1), (torch.zeros(8)[1:], 1)):
        kernel = Kernel()
        launch = launch_of(kernel)
        if not is_first:
            launch.run(1, CPU, torch.zeros(8), 1)
        launch.run(2, CPU, x, n)
        launch.run(3, CPU, x, n)
        assert kernel.grids[-2:] == [(2, 1, 1), (3, 1, 1)] and kernel.compiled.given == []


def test_alignment_counts_only_where_the_kernel_is_compiled_for_it():
    kernel = Kernel(is_free=True)
    launch = launch_of(kernel)
    for start in (1, 0, 3):
        launch.run(1, CPU, torch.zeros(8)[start:], 1)
    assert len(kernel.grids) == 1 and len(kernel.compiled.given) == 2


def test_aligned():
    x = torch.arange(12.0)
    assert aligned(x) is x
    for view in (x[1:], x.view(3, 4).T, x[::2]):
        moved = aligned(view)
        assert torch.equal(moved, view) and moved.is_contiguous() and moved.data_ptr() % 16 == 0


def test_constants_come_last():
    kernel = Kernel()
    kernel.arg_names = ("BLOCK", "x", "n")
    with pytest.raises(ValueError, match="must come last"):
        launch_of(kernel)


def test_a_launch_is_on_the_device_and_the_stream_of_the_tensors():
    """A device that is not there: the spy answers for it."""
    there = torch.device("cuda", 1)
    seen = []

    class Spy(DeviceFacts):
        current = None

        @contextmanager
        def guard(self, device):
            self.current = device
            yield
            self.current = None

        def stream(self, device):
            seen.append((device, self.current))
            return 77

    kernel = Kernel()
    with replaced(Spy()):
        launch = launch_of(kernel)
        launch.run(1, there, torch.zeros(8), 1)
        launch.run(1, there, torch.zeros(8), 1)
    assert seen == [(there, there)] and kernel.compiled.streams == [77]
