"""An emulated GPU behind CPU tensors, for as long as a `with` block lasts.

    with emulated(capability=90) as gpu:
        output = kernels.ms_deform_attn(value, shapes, locations, weights)  # CPU tensors
    print(gpu.launches, gpu.compilations)

Inside, the kernels package answers calls on CPU tensors with its Triton kernels, which Triton binds
and compiles as for a GPU of that capability, and the emulator runs. Nothing of it is left outside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from torch import Tensor

from bench.offline.emulator import Buffer, Counts, Fault, Options
from bench.offline.emulator.driver import (
    EmulatingDriver,
    Launcher,
    LoadedKernel,
    buffer_of,
    kernel_name,
)
from bench.offline.emulator.poison import filled_memory

SHOWN = 6
"""Faults that an error tells."""


class EmulatedFaultError(RuntimeError):
    """A launch did what a kernel must not do.

    Attributes:
        launch: its entry in the log.
    """

    def __init__(self, launch: LaunchRecord) -> None:
        # One of each kind first.
        kinds = {fault.kind: fault for fault in reversed(launch.faults)}
        first = list(kinds.values())[::-1]
        rest = [fault for fault in launch.faults if all(fault is not one for one in first)]
        shown = "".join(f"\n  {fault}" for fault in [*first, *rest][:SHOWN])
        more = f"\n  and {len(launch.faults) - SHOWN} more" if len(launch.faults) > SHOWN else ""
        super().__init__(f"{launch.kernel}, grid {launch.grid}, {launch.constants}:{shown}{more}")
        self.launch = launch


@dataclass(frozen=True, kw_only=True)
class LaunchRecord:
    """One emulated launch.

    Attributes:
        kernel: folder and name of the `triton.jit` function.
        grid: programs along x, y, z.
        key: Triton's key of the compiled kernel: two launches share it if they share the code.
        function: that code, as PTX, binary and program.
        constants: what was compiled in.
        types: Triton's types of the arguments, by name.
        arguments: what was passed, by name; tensors as dtype and shape.
        counts: of the emulator.
        faults: what was wrong.
        seconds: wall time of the emulation.
    """

    kernel: str
    grid: tuple[int, int, int]
    key: str
    function: LoadedKernel = field(repr=False)
    constants: dict[str, Any]
    types: dict[str, Any]
    arguments: dict[str, Any]
    counts: Counts
    faults: tuple[Fault, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """A form of a kernel that Triton did not have yet on this device, from its own cache key.

    Attributes:
        kernel: folder and name of the `triton.jit` function.
        key: Triton's key: types, specialisations and constants of all arguments, and options.
    """

    kernel: str
    key: str


@dataclass(kw_only=True)
class EmulatedGPU:
    """The GPU of an `emulated` block.

    Attributes:
        capability: compute capability as a number.
        options: of launches, whose faults are always collected; may be replaced between them.
        sample: (kernel name, grid) -> the blocks to run, or None for all; takes the place of
            `options.blocks`.
        watch: called with the kernel's name and its arguments by name, before each launch, whose
            options it may replace.
        raise_faults: whether a faulty launch raises, or is only logged.
        launches: all of them, in order.
        compilations: all forms of kernels that Triton asked its compiler (or its cache on disk)
            for. A call that adds none has launched what was there.
    """

    capability: int
    options: Options
    sample: Callable[[str, tuple[int, int, int]], Sequence[int] | None] | None = None
    watch: Callable[[str, dict[str, Any]], None] | None = None
    raise_faults: bool = True
    launches: list[LaunchRecord] = field(default_factory=list)
    compilations: list[Compilation] = field(default_factory=list)
    jit_functions: set[Any] = field(default_factory=set, repr=False)

    @property
    def kernels(self) -> set[str]:
        """Names of the kernels that were launched."""
        return {launch.kernel for launch in self.launches}

    @property
    def faults(self) -> int:
        """Faults of all launches."""
        return sum(len(launch.faults) for launch in self.launches)

    def launch(
        self,
        launcher: Launcher,
        function: LoadedKernel,
        grid: tuple[int, int, int],
        stream: int,
        arguments: Sequence[Any],
    ) -> None:
        """Run a launch and log it. Raises: EmulatedFaultError."""
        values: list[int | float | Buffer] = []
        described: dict[str, Any] = {}
        for name, value in launcher.flat(arguments):
            if isinstance(value, Tensor):
                if value.device.type != "cpu":
                    raise ValueError(f"{name} is on {value.device}; emulated GPUs take CPU tensors")
                values.append(buffer_of(name, value))
                described[name] = (str(value.dtype).removeprefix("torch."), tuple(value.shape))
            else:
                values.append(value)
                described[name] = value
        program = function.program
        if self.watch is not None:
            self.watch(launcher.kernel, dict(zip(launcher.names, arguments, strict=True)))
        options = replace(self.options, collect=True)
        if self.sample is not None:
            options = replace(options, blocks=self.sample(launcher.kernel, grid))
        start = time.perf_counter()
        buffers = [value for value in values if isinstance(value, Buffer)]
        result = program.run(grid, values, buffers, options)
        record = LaunchRecord(
            kernel=launcher.kernel,
            grid=grid,
            key=launcher.key,
            function=function,
            constants=launcher.constants,
            types=dict(zip(launcher.names, launcher.types, strict=True)),
            arguments=described,
            counts=result.counts,
            faults=tuple(result.faults),
            seconds=time.perf_counter() - start,
        )
        self.launches.append(record)
        if record.faults and self.raise_faults:
            raise EmulatedFaultError(record)

    def on_compilation(self, *, key: str, fn: Any, **_: Any) -> bool:
        """Triton's hook before it compiles; False lets it."""
        self.jit_functions.add(fn.jit_function)
        self.compilations.append(Compilation(kernel=kernel_name(fn.jit_function), key=str(key)))
        return False


@contextmanager
def emulated(
    capability: int = 90,
    *,
    options: Options | None = None,
    sample: Callable[[str, tuple[int, int, int]], Sequence[int] | None] | None = None,
    raise_faults: bool = True,
    poison: bool = True,
) -> Iterator[EmulatedGPU]:
    """Let CPU tensors stand for tensors on a GPU of this compute capability.

    Args:
        capability: one of `CAPABILITIES`.
        options: of the launches; by default all checks, blocks in order.
        sample: see `EmulatedGPU`.
        raise_faults: raise `EmulatedFaultError` at a faulty launch; otherwise only log it.
        poison: memory of `torch.empty` holds a pattern of which the emulator knows that no one
            wrote it: reading it is a fault, and what nobody writes stays NaN.

    Raises: RuntimeError when the kernels were loaded for Triton's interpreter; ValueError for a
        capability that cannot be stood in for. Blocks cannot be nested.
    """
    from triton import knobs
    from triton.runtime import driver

    from kernels import device

    _refuse_interpreter()
    if isinstance(driver._active, EmulatingDriver):
        raise RuntimeError("a GPU is emulated already; leave that block first")
    gpu = EmulatedGPU(
        capability=capability,
        options=Options() if options is None else options,
        sample=sample,
        raise_faults=raise_faults,
    )
    stand_in = EmulatingDriver(capability, gpu.launch)
    outer_hook = knobs.runtime.jit_cache_hook
    with ExitStack() as stack:
        stack.enter_context(device.replaced(stand_in))
        stack.enter_context(filled_memory() if poison else nullcontext())
        # Reading `driver.active` would look for a real one.
        stack.enter_context(mock.patch.object(driver, "_active", stand_in))
        knobs.runtime.kernel_load_start_hook.add(stand_in.utils.before_load)
        stack.callback(knobs.runtime.kernel_load_start_hook.remove, stand_in.utils.before_load)
        knobs.runtime.jit_cache_hook = gpu.on_compilation
        stack.callback(setattr, knobs.runtime, "jit_cache_hook", outer_hook)
        try:
            yield gpu
        finally:
            for function in gpu.jit_functions:
                function.device_caches.pop(stand_in.get_current_device(), None)


def _refuse_interpreter() -> None:
    from triton.runtime.jit import JITFunction

    from kernels.deformable_attention import triton_forward

    if not isinstance(triton_forward.forward_kernel, JITFunction):
        raise RuntimeError(
            "the kernels were loaded for Triton's interpreter; unset TRITON_INTERPRET before "
            "triton is imported"
        )
