"""The CPU paths as they run where there is no C compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import kernels
from bench.suite.schema import Call


@contextmanager
def no_compiler() -> Iterator[None]:
    """Inside, forward and backward of attention and masks run in plain PyTorch."""
    modules = (kernels.deformable_attention.cpu, kernels.mask_head.cpu)
    compiled = [module.library for module in modules]
    for module in modules:
        module.library = lambda *_: None
    try:
        yield
    finally:
        for module, library in zip(modules, compiled, strict=True):
            module.library = library


def without_compiler(build: Callable[[], Call]) -> Call:
    """A call that is made, and always runs, without one."""
    with no_compiler():
        call = build()
    return no_compiler()(call)
