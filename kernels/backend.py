"""Which implementation answers a call: the fastest that fits, or the one asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

Backend = Literal["auto", "reference"]

_backend: ContextVar[Backend] = ContextVar("kernels_backend", default="auto")


def current_backend() -> Backend:
    """The backend asked for in this context; "auto" unless `use_backend` says otherwise."""
    return _backend.get()


@contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Run the enclosed calls with one backend.

    Args:
        name: "auto" picks the fastest implementation for the tensors at hand; "reference" is the
            plain PyTorch definition. Nested uses restore the outer choice.

    Raises: ValueError on another name.
    """
    if name not in get_args(Backend):
        raise ValueError(f"backend {name!r} is unknown; choose one of {list(get_args(Backend))}")
    token = _backend.set(name)
    try:
        yield
    finally:
        _backend.reset(token)
