"""Whether autograd records a call. A step of its own (`autograd.Function`) is for calls that are
recorded; the others take the plain formula, which costs no bookkeeping and which torch.compile
reads as it is."""

from __future__ import annotations

import torch
from torch import Tensor


def is_recorded(*tensors: Tensor | None) -> bool:
    """Whether gradients are enabled and one of the inputs needs one."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def is_autocast_to_bfloat16(device: str) -> bool:
    """Whether products of a CPU run in bfloat16 by autocast."""
    return (
        device == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )
