"""The devices of tensors, as the kernels see them: every question about one is asked here.

`facts()` answers for the devices that are there. A stand-in with the same methods answers instead
inside `replaced(stand_in)`: a test that spies on guards, or an emulated GPU behind tensors of the
CPU. Nothing else in this package looks at `tensor.device.type` to decide how a Triton kernel runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal

import torch

Target = Literal["cuda", "hip"]


class DeviceFacts:
    """The answers for real devices, and the interface of a stand-in (subclass it).

    Methods are called before every launch, so they are quick, never wait for a device, and give the
    same answer for the same device, but for `stream`.
    """

    def is_gpu(self, device: torch.device) -> bool:
        """Whether "auto" answers calls on this device with Triton kernels."""
        return device.type == "cuda"

    def can_launch(self, device: torch.device) -> bool:
        """Whether Triton kernels run at all on tensors of this device: on a GPU, or interpreted."""
        return device.type == "cuda" or self.is_interpreted(device)

    def is_interpreted(self, device: torch.device) -> bool:
        """Whether Triton's interpreter runs kernels on this device, one program after the other.

        TRITON_INTERPRET must have been set before triton was imported.
        """
        return device.type == "cpu" and is_triton_installed() and _is_interpreter_on()

    def target(self, device: torch.device) -> Target:
        """The compiler's backend, whose options a launch may use."""
        return "hip" if device.type == "cuda" and torch.version.hip else "cuda"

    def capability(self, device: torch.device) -> int:
        """Compute capability as a number, 90 for 9.0. The interpreter and AMD stand for 9.0."""
        if device.type != "cuda" or torch.version.hip:
            return 90
        return _capability(device.index)

    def guard(self, device: torch.device) -> AbstractContextManager[None]:
        """Makes the device the current one, for as long as it is entered. Free where it is."""
        if device.type != "cuda" or device.index in (None, torch.cuda.current_device()):
            return _NO_GUARD
        return torch.cuda.device(device)

    def stream(self, device: torch.device) -> int:
        """Handle of the device's current stream, on which its kernels are launched."""
        if device.type != "cuda":
            return 0
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch._C._cuda_getCurrentRawStream(index)


_NO_GUARD = nullcontext()

# A plain global, not a context variable: the backward pass of CUDA tensors runs in other threads.
_facts = DeviceFacts()


def facts() -> DeviceFacts:
    """Who answers now."""
    return _facts


@contextmanager
def replaced(stand_in: DeviceFacts) -> Iterator[DeviceFacts]:
    """Let a stand-in answer for all devices, in all threads. Nested uses restore the outer one."""
    global _facts
    before, _facts = _facts, stand_in
    _forget()
    try:
        yield stand_in
    finally:
        _facts = before
        _forget()


_caches: list[dict[Any, Any]] = []


def device_cache() -> dict[Any, Any]:
    """A new dict for what was made with the facts of a device: emptied where others answer."""
    _caches.append({})
    return _caches[-1]


def _forget() -> None:
    for cache in _caches:
        cache.clear()


@lru_cache(maxsize=1)
def is_triton_installed() -> bool:
    """Whether `import triton` would find something; it is not imported here."""
    return find_spec("triton") is not None


def _is_interpreter_on() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@lru_cache(maxsize=64)
def _capability(index: int | None) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor
