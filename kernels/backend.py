"""Which implementation answers a call: the fastest that fits, or the one asked for.

The choice is made by rule before anything runs. A kernel that fails raises its error; nothing falls
back to another implementation afterwards.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .device import facts, is_triton_installed

logger = logging.getLogger(__name__)

Backend = Literal["auto", "triton", "reference"]
Implementation = Literal["triton", "cpu", "reference"]

ENVIRONMENT_VARIABLE = "SEQFORMER_KERNELS_BACKEND"
"""Backend of a whole process, for debugging; `use_backend` has the last word."""


def _checked(name: str, origin: str) -> Backend:
    if name not in get_args(Backend):
        raise ValueError(f"{origin} {name!r} is unknown; choose one of {list(get_args(Backend))}")
    return cast(Backend, name)


# A plain global, not a context variable: autograd runs the backward of CUDA tensors in a thread of
# its own, and torch.compile guards on globals.
_backend: Backend = _checked(
    os.environ.get(ENVIRONMENT_VARIABLE, "auto"), f"{ENVIRONMENT_VARIABLE}: backend"
)


def current_backend() -> Backend:
    """The backend asked for; "auto" unless `use_backend` or the environment says otherwise."""
    return _backend


@contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Run the enclosed calls, in all threads, with one backend.

    Args:
        name: "auto" picks the fastest implementation for the tensors at hand: Triton on a GPU, the
            CPU path on a CPU. "triton" insists on the kernels: on CPU tensors they run in Triton's
            interpreter, if TRITON_INTERPRET=1 was set before triton was imported. "reference" is
            the plain PyTorch definition. Nested uses restore the outer choice.

    Raises: ValueError on another name.
    """
    global _backend
    before, _backend = _backend, _checked(name, "backend")
    try:
        yield
    finally:
        _backend = before


class Choice(NamedTuple):
    """Who answers a call.

    Attributes:
        implementation: the one that does.
        why_not: why each of the others does not.
    """

    implementation: Implementation
    why_not: Mapping[Implementation, str]


_NO_GPU = "the tensors are not on a GPU"
_NO_CPU = "the tensors are not on a CPU"
_SLOWER = "it is the definition, and slower"
_ASKED_TRITON = "the backend 'triton' was asked for"
_ASKED_REFERENCE = "the backend 'reference' was asked for"

_REFERENCE = Choice("reference", {"triton": _ASKED_REFERENCE, "cpu": _ASKED_REFERENCE})
_NO_KERNELS = Choice("reference", {"triton": _NO_GPU, "cpu": _NO_CPU})
_DOUBLE = Choice(
    "reference", {"triton": "a tensor is float64, which is for the CPU only", "cpu": _NO_CPU}
)
_NO_TRITON = Choice("reference", {"triton": "triton is not installed", "cpu": _NO_CPU})
_GPU = Choice("triton", {"cpu": _NO_CPU, "reference": _SLOWER})
_CPU = Choice("cpu", {"triton": _NO_GPU, "reference": _SLOWER})
_INTERPRETED = Choice("triton", {"cpu": _ASKED_TRITON, "reference": _ASKED_TRITON})
_REFUSED = Choice("triton", {"cpu": _ASKED_TRITON, "reference": _ASKED_TRITON})
"""As `_INTERPRETED`, where nothing can interpret: whoever runs it raises."""


def choose(first: Tensor, *others: Tensor | None) -> Choice:
    """Who answers a call with these tensors, by rule: what was asked for; else Triton on a GPU and
    the CPU path on a CPU; else, and for float64 on a GPU, the definition."""
    if _backend == "reference":
        return _REFERENCE
    if _backend == "auto":
        device = first.device
        if not facts().is_gpu(device):
            return _CPU if device.type == "cpu" else _NO_KERNELS
        for tensor in (first, *others):
            if tensor is not None and tensor.dtype == torch.float64:
                return _DOUBLE
        return _GPU if is_triton_installed() else _NO_TRITON
    return _kernels_on(first.device)


def _kernels_on(device: torch.device) -> Choice:
    """Of the implementations that are no definition."""
    if facts().is_gpu(device):
        return _GPU
    if _backend != "triton":
        return _CPU
    return _INTERPRETED if facts().can_launch(device) else _REFUSED


def is_reference_chosen(first: Tensor, *others: Tensor | None) -> bool:
    """Whether `choose` takes the plain PyTorch definition."""
    choice = choose(first, *others)
    if choice.implementation != "reference":
        return False
    if not is_compiling() and "reference" not in _told:
        _tell(choice)
    return True


def kernel_implementation(tensor: Tensor) -> Implementation:
    """Who runs an op: "triton" or "cpu". Called inside the op, where tensors are real.

    Raises: ValueError when "triton" was asked for but cannot run on this device.
    """
    choice = _kernels_on(tensor.device)
    if choice is _REFUSED:
        raise ValueError(_refusal(tensor.device))
    if choice.implementation not in _told:
        _tell(choice)
    return choice.implementation


_told: set[Implementation] = set()
"""What this process was told of."""
_KINDS = {
    "triton": "Triton kernels",
    "cpu": "the CPU's own code",
    "reference": "the plain PyTorch definition",
}


def _tell(choice: Choice) -> None:
    """Say once per process and implementation that it runs, and why."""
    _told.add(choice.implementation)
    reason = choice.why_not.get("triton")
    if reason is None:
        reason = "the tensors are on a GPU" if choice is _GPU else _ASKED_TRITON
    logger.info(
        "deformable attention and masks run as %s: %s (%s or use_backend() chooses)",
        _KINDS[choice.implementation],
        reason,
        ENVIRONMENT_VARIABLE,
    )


def _refusal(device: torch.device) -> str:
    return (
        f"backend 'triton' was asked for but the tensors are on {device}; move them to "
        "a GPU, or set TRITON_INTERPRET=1 before triton is imported to interpret the kernels"
    )


class Explanation(NamedTuple):
    """Who answers a call, in detail.

    Attributes:
        implementation: "triton"; "c", compiled at first use; "torch", the CPU path in plain
            PyTorch; or "reference", the definition.
        why_not: why each of the others does not.
    """

    implementation: str
    why_not: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.implementation} answers"]
        return "\n".join(lines + [f"not {name}: {why}" for name, why in self.why_not.items()])


_operators: dict[Callable[..., Any], Callable[..., str | None]] = {}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def explained_by(why_not_compiled: Callable[..., str | None]) -> Callable[[_Function], _Function]:
    """Makes a public function known to `explain`.

    Args:
        why_not_compiled: from the float tensors of a call on a CPU, in order, to the reason why
            its C code does not answer; None where it does.
    """

    def register(function: _Function) -> _Function:
        _operators[function] = why_not_compiled
        return function

    return register


def explain(operator: Callable[..., Any], *arguments: Any, **options: Any) -> Explanation:
    """Which implementation a call would take, and why none of the others; nothing runs.

    Asks what the call itself asks. On a CPU, the C code is compiled if it was not yet.

    Args:
        operator: a public function of this package that has several implementations.
        arguments, options: of the call.

    Raises: ValueError for another function, or where the call would be refused.
    """
    if operator not in _operators:
        names = sorted(function.__name__ for function in _operators)
        raise ValueError(f"{operator} has no choice of implementations; explain one of {names}")
    tensors = [x for x in (*arguments, *options.values()) if isinstance(x, Tensor)]
    floats = [x for x in tensors if x.is_floating_point()]
    choice = choose(*floats)
    if choice is _REFUSED:
        raise ValueError(_refusal(floats[0].device))
    why_not: dict[str, str] = {str(name): why for name, why in choice.why_not.items()}
    if choice.implementation != "cpu":
        why_not["c"] = why_not["torch"] = why_not.pop("cpu")
        return Explanation(choice.implementation, why_not)
    reason = _operators[operator](*floats)
    if reason is None:
        return Explanation("c", why_not | {"torch": "there is a C compiler"})
    return Explanation("torch", why_not | {"c": reason})
