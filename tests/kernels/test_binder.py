"""What Triton's launch path makes of the kernels' arguments: names, options, specialisation.

Of Triton 3.6 and 3.9, whichever is installed. The interpreter knows nothing of this path.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pkgutil import walk_packages

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import make_backend  # noqa: E402
from triton.runtime.interpreter import InterpretedFunction  # noqa: E402
from triton.runtime.jit import JITFunction, create_function_from_signature  # noqa: E402

import kernels  # noqa: E402
from bench.compile import all_cases  # noqa: E402
from kernels.deformable_attention import launch as attention_launch  # noqa: E402
from kernels.launch import TABLE_CAPABILITIES, KernelVariant  # noqa: E402

TARGETS = {"cuda": GPUTarget("cuda", 90, 32), "hip": GPUTarget("hip", "gfx942", 64)}

RESERVED = {
    *("params", "specialization", "options", "specialize_impl", "backend", "JITCallable"),
    *("self", "args", "kwargs", "grid", "warmup"),
    *("device", "device_type", "stream"),
}
"""Names of the function that Triton 3.6 and 3.9 generate to bind arguments, of the method that
calls it, and those that it refuses. Compile options come to them."""


def jit_functions() -> dict[str, JITFunction]:
    """Every `triton.jit` function of the package, helpers too, as it is outside the interpreter."""
    functions = {}
    for module in walk_packages(kernels.__path__, "kernels."):
        for name, value in vars(import_module(module.name)).items():
            if isinstance(value, InterpretedFunction):
                value = JITFunction(value.fn, **value.kwargs)
            if isinstance(value, JITFunction):
                functions[f"{value.fn.__module__.split('.')[-2]}.{name}"] = value
    return functions


FUNCTIONS = jit_functions()
LAUNCHED = {name for name in FUNCTIONS if name.endswith("_kernel")}


def binder(function: JITFunction):
    """What Triton generates to bind the function's arguments."""
    backend = make_backend(TARGETS["cuda"])
    return create_function_from_signature(function.signature, function.params, backend)


def bind(function: JITFunction, arguments: dict[str, object]):
    """Arguments by name, Triton's key of them, and options that are left."""
    return binder(function)(**arguments)


def of_arguments(*names: str) -> JITFunction:
    """A kernel that does nothing, with such arguments."""
    function = JITFunction(inspect.cleandoc)
    function.signature = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    kind = type(next(iter(FUNCTIONS.values())).params[0])
    function.params = [
        kind(i, parameter, False, False)
        for i, parameter in enumerate(function.signature.parameters.values())
    ]
    return function


def options_of_triton() -> set[str]:
    return {
        name for target in TARGETS.values() for name in vars(make_backend(target).parse_options({}))
    }


def test_the_scan_finds_the_kernels():
    assert {name.partition(".")[2] for name in LAUNCHED} >= {
        *("forward_kernel", "backward_kernel", "gradient_kernel", "sum_kernel"),
        *("loss_kernel", "loss_gradient_kernel", "threshold_kernel"),
    }


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_arguments_arrive_under_their_names(name):
    function = FUNCTIONS[name]
    arguments = {p.name: 1 if p.is_constexpr else torch.zeros(4) for p in function.params}
    bound, specialization, options = bind(function, arguments)
    assert bound.keys() == arguments.keys() and options == {}
    assert all(bound[key] is value for key, value in arguments.items())
    assert len(specialization) == len(arguments)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_no_argument_has_a_reserved_name(name):
    taken = (RESERVED | options_of_triton()) & set(FUNCTIONS[name].arg_names)
    assert not taken, f"{name}: Triton has a use of its own for {taken}"


def test_reserved_names_are_those_of_this_triton():
    function = of_arguments("x")
    code = binder(function).__code__
    used = set(code.co_names) | set(code.co_varnames) - {"x"}
    assert used <= RESERVED
    assert set(inspect.signature(JITFunction.run).parameters) <= RESERVED


@pytest.mark.parametrize("name", ["params", "specialize_impl", "backend"])
def test_a_reserved_name_cannot_be_bound(name):
    """The fault that forbids these names, planted."""
    arguments = {"x": torch.zeros(4), name: torch.zeros(4), "y": 3}
    try:
        bound, _, _ = bind(of_arguments(*arguments), arguments)
    except (TypeError, AttributeError):
        return
    assert any(bound[key] is not value for key, value in arguments.items())


def variants() -> list[KernelVariant]:
    """All that the launch tables can ask for."""
    return [case.variant for f in (*TABLE_CAPABILITIES, 86, 100) for case in all_cases(f)]


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_options_are_those_of_the_compiler(target):
    """An option that the backend does not know is an error at launch, and none offline."""
    backend = make_backend(TARGETS[target])
    for variant in variants():
        given = variant.options(target)
        parsed = vars(backend.parse_options(dict(given)))
        assert given.items() <= parsed.items(), variant


def test_a_bound_on_registers_is_for_nvidia():
    assert any("maxnreg" in variant.options("cuda") for variant in variants())


@pytest.mark.parametrize("name", sorted(LAUNCHED))
def test_sizes_and_unaligned_indices_compile_nothing_anew(name):
    """Triton's key of a kernel is the same for all numbers of 32 bits, and for indices and targets
    that begin anywhere."""
    function = FUNCTIONS[name]
    pointers = [p for p in function.params if not p.is_constexpr and not p.do_not_specialize]
    numbers = [p.name for p in function.params if p.do_not_specialize]
    assert numbers and pointers
    free = ("clip_index", "target_index", "targets", "valid", "parameters", "references")
    keys = set()
    for number, start in ((1, 0), (16, 1), (2**31 - 1, 2), (7, 3)):
        given = {p.name: torch.zeros(8)[start * (p.name in free) :] for p in pointers}
        given |= dict.fromkeys(numbers, number)
        if "levels" in given:
            height = min(number, 2**15 - 1)
            given["levels"] = attention_launch._levels(((height, 16), (1, height)), 1).codes
        given |= {p.name: 1 for p in function.params if p.is_constexpr}
        keys.add(str(bind(function, given)[1]))
    assert len(keys) == 1
