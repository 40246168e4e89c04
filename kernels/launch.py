"""What every Triton launcher of this package shares: options, launching, and offline variants.

A `KernelVariant` is one form in which a kernel is compiled: argument types, constants, warps.
`python -m bench.compile` compiles variants for GPUs that are not there. A launcher makes a `Launch`
of each, keeps it under a key that says all that the variant depends on, and from then on only hands
it arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from .compile_once import is_shared, turn
from .device import Target, device_cache, facts

MAX_PROGRAMS, MAX_SHORT_AXIS = 2**31 - 1, 65_535
"""Largest grid along its first axis, and along the others."""

LARGEST_INT32 = 2**31 - 1

ALIGNMENT = 16
"""Bytes that a vector load takes at most. Triton compiles a kernel anew for a pointer that does not
lie on a multiple, unless the kernel says that it loads no vectors through it."""

TABLE_CAPABILITIES = (70, 75, 80, 90, 120)
"""Compute capabilities that launch tables are written for; others use the nearest one below."""


@dataclass(frozen=True, kw_only=True)
class KernelVariant:
    """One compiled form of a kernel.

    Attributes:
        kernel: a `triton.jit` function.
        types: argument -> Triton type ("*fp32", "i32", a tuple of them), in any order.
        constants: `tl.constexpr` argument -> value.
        num_warps: warps per program.
        max_registers: per thread; without a bound ptxas at times spills a few bytes for occupancy.
        rows: units of work per program, for counts per unit.
        trips: how often a loop of the kernel runs (all of them alike).
    """

    kernel: Any
    types: Mapping[str, str | tuple[str, ...]]
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
        """Launch once, by names; errors as `Launch.run`."""
        given = [arguments[name] for name in self.kernel.arg_names if name in arguments]
        device = next(x.device for x in given if isinstance(x, Tensor))
        Launch(self).run(grid, device, *given)


class Launch:
    """A variant on a device, compiled by its first run; later ones go straight to the driver.

    Triton's own way to a launch binds, specialises and looks up anew every time. Here the caller
    answers for dtypes and constants: one `Launch` per device and dtypes. What remains is looked at:
    integers beyond 32 bits, and pointers off the alignment that the kernel was compiled for, take
    Triton's own way, which compiles again. `aligned` spares tensors of the model that.

    Attributes:
        variant: what is launched.
    """

    __slots__ = ("_compiled", "_constants", "_numbers", "_pointers", "variant")

    def __init__(self, variant: KernelVariant) -> None:
        kernel = variant.kernel
        names = [name for name in kernel.arg_names if name not in variant.constants]
        constants = kernel.arg_names[len(names) :]
        if not set(constants) <= variant.constants.keys():
            raise ValueError(f"constants of {kernel} must come last: {kernel.arg_names}")
        self.variant = variant
        self._constants = tuple(variant.constants[name] for name in constants)
        types = {name: variant.types[name] for name in names}
        self._numbers = tuple(i for i, n in enumerate(names) if types[n] == "i32")
        self._pointers = tuple(
            p.num
            for p in getattr(kernel, "params", ())  # the interpreter's kernels have none
            if types.get(p.name, "")[:1] == "*" and not p.do_not_specialize_on_alignment
        )
        self._compiled: Any = None

    def run(self, grid: int | tuple[int, ...], device: torch.device, *arguments: Any) -> None:
        """Launch on the device, on its current stream.

        Args:
            grid: programs along each axis; nothing happens where there are none.
            arguments: of the kernel, in its order, without the constants.

        Raises: ValueError when the grid is too large; RuntimeError where Triton's interpreter and
            NumPy do not fit together.
        """
        grid = (grid, 1, 1) if isinstance(grid, int) else grid
        if 0 in grid:
            return
        if grid[0] > MAX_PROGRAMS or grid[1] > MAX_SHORT_AXIS or grid[2] > MAX_SHORT_AXIS:
            raise ValueError(
                f"a grid of {grid} programs is more than a launch can hold ({MAX_PROGRAMS}, "
                f"{MAX_SHORT_AXIS} and {MAX_SHORT_AXIS}); split the batch"
            )
        answers = facts()
        with answers.guard(device):
            compiled = self._compiled
            if compiled is None or not self._is_as_compiled(arguments):
                self._run_by_triton(grid, answers.target(device), arguments)
            else:
                stream = answers.stream(device)
                compiled[grid](*arguments, *self._constants, stream=stream)

    def _is_as_compiled(self, arguments: tuple[Any, ...]) -> bool:
        for i in self._pointers:
            if arguments[i].data_ptr() % ALIGNMENT:
                return False
        for i in self._numbers:  # noqa: SIM110 - a generator costs a call for each
            if arguments[i] > LARGEST_INT32:
                return False
        return True

    def _run_by_triton(
        self, grid: tuple[int, ...], target: Target, arguments: tuple[Any, ...]
    ) -> None:
        kernel, options = self.variant.kernel, self.variant.options(target)
        if self._compiled is None and is_shared() and hasattr(kernel, "cache_key"):
            with turn(self._form(arguments, options)):
                kernel.warmup(*arguments, *self._constants, grid=grid, **options)
        try:
            compiled = kernel[grid](*arguments, *self._constants, **options)
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
        # The interpreter compiles nothing and gives nothing.
        if compiled is not None and self._is_as_compiled(arguments):
            self._compiled = compiled

    def _form(self, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> str:
        """All that the compiled code depends on."""
        import triton

        device = next(x.device for x in arguments if isinstance(x, Tensor))
        variant = self.variant
        types = sorted(variant.types.items())
        parts = (variant.kernel.cache_key, types, self._constants, sorted(options.items()))
        return repr((triton.__version__, facts().capability(device), *parts))


_launches: dict[Any, Launch] = device_cache()


def launch_of(
    kernel: Any,
    form: Hashable,
    make: Callable[[dict[str, Any]], KernelVariant],
    tensors: Sequence[Tensor],
    others: Sequence[Any],
) -> Launch:
    """The launch of a kernel with such tensors, made when it is asked for the first time.

    Args:
        form: all that `make` depends on besides the tensors' dtypes and device.
        make: from arguments by name to the variant.
        tensors, others: arguments of the kernel, in its order, without the constants.
    """
    key = (id(kernel), form, tensors[0].device, *[tensor.dtype for tensor in tensors])
    launch = _launches.get(key)
    if launch is None:
        # Constants come last, and have no argument here.
        names = zip(kernel.arg_names, (*tensors, *others), strict=False)
        launch = _launches[key] = Launch(make(dict(names)))
    return launch


def aligned(tensor: Tensor) -> Tensor:
    """Contiguous, and where vectors can be loaded: itself, but for rare views."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


@dataclass(frozen=True, kw_only=True)
class Case:
    """A variant with a name, for tables.

    Attributes:
        name: e.g. "msda forward fp32 points".
        is_model: whether the model launches it at its own sizes.
    """

    name: str
    variant: KernelVariant
    is_model: bool = field(default=True)


@lru_cache(maxsize=64)
def table_capability(capability: int) -> int:
    """Whose entry of a launch table a compute capability uses: 80 for 86 and 89."""
    return max((f for f in TABLE_CAPABILITIES if f <= capability), default=TABLE_CAPABILITIES[0])


_Config = TypeVar("_Config")


def entry_for(table: Mapping[int, _Config], capability: int) -> _Config:
    """Of a launch table: the entry of the newest GPUs that are not newer than this one."""
    return table[max((c for c in table if c <= capability), default=min(table))]


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


def argument_type(value: Tensor | torch.dtype | int | tuple[int, ...]) -> str | tuple[str, ...]:
    """Triton's name for the type of an argument; a dtype stands for a tensor."""
    if isinstance(value, tuple):
        return ("i32",) * len(value)
    return "i32" if isinstance(value, int) else pointer_type(value)


def sum_of_shared(grad: Tensor, like: Tensor) -> Tensor:
    """Gradients per image -> of an input that several images in a row share, in its dtype."""
    share = grad.shape[0] // max(like.shape[0], 1)
    if share > 1:
        grad = grad.unflatten(0, (like.shape[0], share)).sum(1)
    return grad.to(like.dtype)
