"""Which implementation answers a call: the fastest that fits, or the one asked for.

The choice is made by rule before anything runs. A kernel that fails raises its error; nothing falls
back to another implementation afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from .device import facts, is_triton_installed

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


def is_reference_chosen(first: Tensor, *others: Tensor | None) -> bool:
    """Whether the plain PyTorch definition answers, by rule: it was asked for; or the tensors are
    float64 on a GPU, which the kernels do not compute in; or on a device with no kernels."""
    if _backend == "reference":
        return True
    device = first.device
    if not facts().is_gpu(device):
        return _backend == "auto" and device.type != "cpu"
    if _backend == "triton":
        return False
    for tensor in (first, *others):
        if tensor is not None and tensor.dtype == torch.float64:
            return True
    return not is_triton_installed()


def kernel_implementation(tensor: Tensor) -> Implementation:
    """Who runs an op: "triton" or "cpu". Called inside the op, where tensors are real.

    Raises: ValueError when "triton" was asked for but cannot run on this device.
    """
    device = tensor.device
    if facts().is_gpu(device):
        return "triton"
    if _backend != "triton":
        return "cpu"
    if not facts().can_launch(device):
        raise ValueError(
            f"backend 'triton' was asked for but the tensors are on {device}; move them to "
            "a GPU, or set TRITON_INTERPRET=1 before triton is imported to interpret the kernels"
        )
    return "triton"
