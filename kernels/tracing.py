"""Whether a call is only executed, or also watched: by a compiler, a mode, a transform.

Operators of torch (`custom_op`) can be watched, and cost tens of microseconds a call. A call that
nobody watches goes around them, through a plain `autograd.Function`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

_PLAIN = frozenset({Tensor, Parameter})


def is_watched(*tensors: Tensor | None) -> bool:
    """Whether the operators must be used: torch.compile, export or jit trace the call; a dispatch
    mode (fake tensors, FLOP counting) or a transform of torch.func is active; or an input is of a
    subclass of Tensor."""
    if torch.compiler.is_compiling():
        return True
    if (
        torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    ):
        return True
    # Plain loops: a generator costs a call for each tensor.
    for tensor in tensors:  # noqa: SIM110
        if tensor is not None and type(tensor) not in _PLAIN:
            return True
    return False


def needs_graph(*tensors: Tensor | None) -> bool:
    """Whether autograd must record a call with these inputs."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False
