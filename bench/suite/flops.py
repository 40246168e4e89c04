"""FLOPs counted operator by operator, and costs that are counted when somebody asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bench.suite.schema import Cost


class FlopCounter(TorchDispatchMode):
    """Adds up what PyTorch's registry of formulas says of every operator inside.

    PyTorch's own counter follows modules too, by hooks that `torch.autograd.grad` and Swin's
    shifted windows do not bear.

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


@dataclass(frozen=True)
class Work:
    """Of one call: FLOPs, those in matrix products and convolutions, and numbers moved."""

    flops: int
    product_flops: int
    numbers: int


class CountedCost(Cost):
    """A cost that is counted at first use, so that declaring a case takes no time."""

    def __init__(self, count: Callable[[], Work], is_half: bool, bytes_per_number: int) -> None:
        vars(self).update(_count=count, _is_half=is_half, _bytes_per_number=bytes_per_number)

    @property
    def bytes(self) -> int:
        return self._count().numbers * self._bytes_per_number

    @property
    def flops(self) -> int:
        return self._count().flops

    @property
    def half_flops(self) -> int:
        return self._count().product_flops if self._is_half else 0
