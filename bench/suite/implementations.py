"""Which implementation answers: one that is named, the CPU paths without a C compiler, or the
backward of deformable attention that merges adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from unittest import mock

import kernels
from bench.suite.schema import Call
from kernels.deformable_attention import tiles

CPU_PATHS = ("cpu", "cpu_torch")
"""The compiled CPU path, where there is a C compiler, and the CPU path in plain PyTorch."""


@contextmanager
def implementation(name: str) -> Iterator[None]:
    """Everything inside is answered by one of `CPU_PATHS`, or by a backend."""
    backend = "auto" if name in CPU_PATHS else name
    with kernels.use_backend(backend), no_compiler() if name == "cpu_torch" else nullcontext():
        yield


@contextmanager
def no_compiler() -> Iterator[None]:
    """Inside, forward and backward of attention and masks run in plain PyTorch."""
    with (
        mock.patch.object(kernels.deformable_attention.cpu, "library", lambda *_: None),
        mock.patch.object(kernels.mask_head.cpu, "library", lambda *_: None),
    ):
        yield


def without_compiler(build: Callable[[], Call]) -> Call:
    """A call that is made, and always runs, without one."""
    with no_compiler():
        call = build()
    return no_compiler()(call)


def merged_adds(**more: int) -> AbstractContextManager[object]:
    """Inside, the backward of attention merges adds for any size and on any GPU.

    Args:
        more: of `tiles`, what else is otherwise.
    """
    table = {key: tile or tiles.MERGED[80] for key, tile in tiles.MERGED.items()}
    return mock.patch.multiple(tiles, MERGED=table, MERGED_ROWS=0, MERGED_SAMPLES=0, **more)
