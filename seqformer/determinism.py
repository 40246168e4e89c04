"""`--deterministic`: the same bits from the same run, on a GPU too.

Without it, atomic additions, cuDNN's choice of algorithm and cuBLAS's workspaces may change the
last bits of a sum from one run to the next. With it, PyTorch and our kernels take the forms that do
not, and an operator that has none refuses to run; the model, its losses and inference use no such
operator. It holds for one machine, one torch, one number of processes, and costs some speed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WORKSPACES = (":4096:8", ":16:8")
"""Settings under which cuBLAS is deterministic."""


@contextmanager
def deterministic_algorithms(enabled: bool = True) -> Iterator[None]:
    """Inside, every operator gives the same bits for the same inputs, or refuses to run.

    Args:
        enabled: False changes nothing.

    Raises: ValueError when cuBLAS has been set up otherwise, which cannot be changed any more.
    """
    if not enabled:
        yield
        return
    _set_workspace()
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = before[1:]


def _set_workspace() -> None:
    """The library cuBLAS reads it once, when its first product is asked for."""
    given = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if given is None:
        if torch.cuda.is_initialized():
            raise ValueError(
                "CUDA has started without CUBLAS_WORKSPACE_CONFIG; set it to :4096:8 before, so "
                "that products are deterministic"
            )
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = _WORKSPACES[0]
    elif given not in _WORKSPACES:
        raise ValueError(
            f"CUBLAS_WORKSPACE_CONFIG is {given!r}, under which products are not deterministic; "
            f"unset it, or set it to {' or '.join(_WORKSPACES)}"
        )
