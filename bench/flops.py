"""FLOPs of a call on tensors without data: counted when somebody asks, nothing computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bench.case import Call, Cost


class FlopCounter(TorchDispatchMode):
    """Adds up what PyTorch's registry of formulas says of every operator inside.

    PyTorch's own counter follows modules too, by hooks that `torch.autograd.grad` does not bear.

    Attributes:
        flops: all.
        product_flops: those of matrix products and convolutions, which tensor cores take.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.product_flops = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        named = named or {}
        formula = flop_registry.get(operator._overloadpacket)
        if formula is None and operator is not torch.ops.prim.device.default:
            with self:
                result = operator.decompose(*arguments, **named)
            if result is not NotImplemented:
                return result
        result = operator(*arguments, **named)
        if formula is not None:
            flops = formula(*arguments, **named, out_val=result)
            self.flops += flops
            if operator.namespace != "seqformer_kernels":
                self.product_flops += flops
        return result


def counted(build: Callable[[torch.device], Call]) -> tuple[int, int]:
    """FLOPs of a call on fake tensors: all, and those that tensor cores take."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        call = build(torch.device("cpu"))
        with FlopCounter() as counter:
            call()
    return counter.flops, counter.product_flops


class CountedCost(Cost):
    """A cost that is counted when first read, so that declaring a case takes no time."""

    def __init__(
        self,
        moved: Callable[[], int],
        build: Callable[[torch.device], Call],
        is_half: bool,
    ) -> None:
        """
        Args:
            moved: bytes to and from memory.
            build: as that of a side.
            is_half: whether matrix products run in half precision.
        """
        vars(self).update(_moved=moved, _build=build, _is_half=is_half)

    @cached_property
    def _work(self) -> tuple[int, int]:
        return counted(self._build)

    @property
    def bytes(self) -> int:
        return self._moved()

    @property
    def flops(self) -> int:
        return self._work[0]

    @property
    def half_flops(self) -> int:
        return self._work[1] if self._is_half else 0
