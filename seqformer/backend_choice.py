"""The implementation of the operators that a command asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ._kernels import kernels
from .config import KernelBackend


@contextmanager
def chosen_backend(name: KernelBackend | None) -> Iterator[None]:
    """Inside, all operators run with this backend; None leaves it to the environment variable."""
    with kernels.use_backend(name or kernels.current_backend()):
        yield


def check_backend(device: torch.device) -> None:
    """Ask before the first frame what the first call would say.

    Raises: ValueError when the kernels were asked for and cannot run on this device.
    """
    if kernels.current_backend() == "triton":
        kernels.explain(kernels.ms_deform_attn, torch.empty(0, device=device))
