"""Triton's interpreter in less time: what it works out for every operation is worked out once.

Triton patches all functions of its language before every call of one kernel function by another,
which is half of the time of our kernels in the interpreter. What was patched for the launch is
still patched then, so that only modules that the launch has not met are left to do. Types of blocks
and shapes of tensors are worked out anew for every result of an operation, though few differ: here
each is worked out once.
"""

from __future__ import annotations

import inspect
import math
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


def remember_types() -> None:
    """From now on; does nothing without triton."""
    try:
        from triton.language import core
        from triton.runtime import interpreter
    except ImportError:
        return
    block_types: dict[Any, dict[str, Any]] = {}
    shapes: dict[Any, tuple[Any, Any]] = {}
    numpy_types: dict[str, Any] = {}
    new_block_type, numpy_type_of = core.block_type.__init__, interpreter._get_np_dtype

    def new_block_type_once(self: Any, element_ty: Any, shape: Any) -> None:
        sides = (side.value if isinstance(side, core.constexpr) else side for side in shape)
        pointed = (element_ty.address_space, element_ty.const) if element_ty.is_ptr() else ()
        key = element_ty.name, *pointed, *sides
        if key not in block_types:
            new_block_type(self, element_ty, shape)
            block_types[key] = dict(vars(self))
        vars(self).update(block_types[key])

    def new_tensor(self: Any, handle: Any, type: Any) -> None:
        sides = tuple(type.shape) if type.is_block() else ()
        if sides not in shapes:
            shape = core.tuple([core.constexpr(side) for side in sides])
            shapes[sides] = core.constexpr(math.prod(sides)), shape
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.numel, self.shape = shapes[sides]

    def numpy_type_once(type: Any) -> Any:
        element = type.scalar
        if element.is_ptr():
            return numpy_type_of(type)
        if element.name not in numpy_types:
            numpy_types[element.name] = numpy_type_of(element)
        return numpy_types[element.name]

    core.block_type.__init__ = new_block_type_once
    core.tensor.__init__ = new_tensor
    interpreter._get_np_dtype = numpy_type_once
