"""What every Triton launcher of this package shares: options, launching, and offline variants.

A `Variant` is one form in which a kernel is compiled: types of its arguments, constants, warps. A
launcher builds variants and runs them; `python -m bench.compile` builds the same ones and compiles
them for GPUs that are not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .device import Target, facts

MAX_PROGRAMS = 2**31 - 1
"""Largest grid along its first axis, the only one that is used."""

FAMILIES = (70, 75, 80, 90)
"""Compute capabilities that launch tables are written for; others use the nearest one below."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One compiled form of a kernel.

    Attributes:
        kernel: a `triton.jit` function.
        types: argument -> Triton type ("*fp32", "i32", ...), in any order.
        constants: `tl.constexpr` argument -> value.
        num_warps: warps per program.
        max_registers: per thread; without a bound ptxas at times spills a few bytes for occupancy.
        rows: units of work per program, for counts per unit.
        trips: how often a loop of the kernel runs (all of them alike).
    """

    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    max_registers: int | None = None
    rows: int
    trips: int = 1

    def options(self, target: Target = "cuda") -> dict[str, Any]:
        """Compile options. Fusing of multiply and add is asked for by name: the default changes
        from one Triton to the next, and with it the rounding. No software pipelining: these loops
        gather, and stages would only cost registers. AMD's compiler takes no bound on registers."""
        options = {"num_warps": self.num_warps, "num_stages": 1, "enable_fp_fusion": True}
        if self.max_registers is not None and target == "cuda":
            options["maxnreg"] = self.max_registers
        return options

    def run(self, grid: int | tuple[int, ...], arguments: Mapping[str, Any]) -> None:
        """Launch on the device of the tensors, on its current stream.

        Raises: ValueError when the grid is too large; RuntimeError where Triton's interpreter and
            NumPy do not fit together.
        """
        grid = (grid,) if isinstance(grid, int) else grid
        programs = grid[0]
        if programs > MAX_PROGRAMS or any(n > 65535 for n in grid[1:]):
            raise ValueError(
                f"{programs} programs are more than a launch can hold ({MAX_PROGRAMS}); split the "
                "batch"
            )
        if 0 in grid:
            return
        given = (x.device for x in arguments.values() if isinstance(x, Tensor))
        device = next(given, torch.device("cpu"))
        options = self.options(facts().target(device))
        try:
            with facts().guard(device):
                self.kernel[grid](**arguments, **self.constants, **options)
        except Exception as error:
            # Up to Triton 3.6, it takes int() of arrays, which NumPy 2.4 refuses.
            if "only 0-dimensional arrays" not in str(error):
                raise
            import numpy
            import triton

            raise RuntimeError(
                f"Triton {triton.__version__} cannot interpret kernels with NumPy "
                f"{numpy.__version__}: install 'numpy<2.4' or a newer Triton, or unset "
                "TRITON_INTERPRET"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Case:
    """A variant with a name, for tables.

    Attributes:
        name: e.g. "msda forward fp32 points".
        is_model: whether the model launches it at its own sizes.
    """

    name: str
    variant: Variant
    is_model: bool = field(default=True)


def family(capability: int) -> int:
    """The launch-table family of a compute capability (80 for 86 and 89)."""
    return max((f for f in FAMILIES if f <= capability), default=FAMILIES[0])


TRITON_TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
    torch.bool: "i1",
}


def pointer_type(tensor: Tensor | torch.dtype) -> str:
    """Triton's name for a pointer to such elements."""
    dtype = tensor.dtype if isinstance(tensor, Tensor) else tensor
    return "*" + TRITON_TYPES[dtype]


def sum_of_shared(grad: Tensor, like: Tensor) -> Tensor:
    """Gradients per image -> of an input that several images in a row share, in its dtype."""
    share = grad.shape[0] // max(like.shape[0], 1)
    if share > 1:
        grad = grad.unflatten(0, (like.shape[0], share)).sum(1)
    return grad.to(like.dtype)
