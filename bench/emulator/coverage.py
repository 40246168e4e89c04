"""Which kernels there are: the `triton.jit` functions of the package that a launcher launches."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import textwrap
from functools import lru_cache
from importlib import import_module

from triton.runtime.jit import JITFunction

import kernels
from bench.emulator.driver import kernel_name


def jit_functions() -> list[JITFunction]:
    """All `triton.jit` functions of the package, each once."""
    found: dict[str, JITFunction] = {}
    for module in pkgutil.iter_modules(kernels.__path__, "kernels."):
        for value in vars(import_module(module.name)).values():
            if isinstance(value, JITFunction):
                found[kernel_name(value)] = value
    return list(found.values())


@lru_cache(maxsize=1)
def launched_kernels() -> frozenset[str]:
    """Names of those that no other one calls: what remains for launchers."""
    functions = jit_functions()
    called = {name for function in functions for name in _names_in(function)}
    return frozenset(kernel_name(f) for f in functions if f.fn.__name__ not in called)


def _names_in(function: JITFunction) -> set[str]:
    """Names that its body reads."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function.fn)))
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
