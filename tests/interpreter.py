"""Triton's interpreter in less time: the language is patched once a launch, not in every call.

Triton patches all functions of its language before every call of one kernel function by another,
which is half of the time of our kernels in the interpreter. What was patched for the launch is
still patched then, so that only modules that the launch has not met are left to do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any


class _Launch:
    """The modules of the language that are patched until the launch restores them."""

    def __init__(self, scope: Any, modules: frozenset[ModuleType]) -> None:
        self.scope, self.modules, self.is_over = scope, set(modules), False

    def restore(self) -> None:
        self.is_over = True
        self.scope.restore()


def patch_once_a_launch() -> None:
    """From now on; does nothing without triton, or where it has no such function."""
    try:
        from triton import language
        from triton.runtime import interpreter
    except ImportError:
        return
    patch: Callable[[Any], Any] | None = getattr(interpreter, "_patch_lang", None)
    if patch is None:
        return
    launch: _Launch | None = None

    @cache
    def modules_of(function: Any) -> frozenset[ModuleType]:
        known = (language, language.core)
        seen = function.__globals__.values()
        return frozenset(each for each in seen if inspect.ismodule(each) and each in known)

    def patch_what_is_not(function: Any) -> Any:
        nonlocal launch
        modules = modules_of(function)
        if launch is None or launch.is_over:
            launch = _Launch(patch(function), modules)
        elif not modules <= launch.modules:
            launch.modules |= modules
            return patch(function)
        return launch

    interpreter._patch_lang = patch_what_is_not
