"""A GPU that does nothing: Triton binds arguments, compiles and launches, and a launch is empty.

For what a call costs on the host, and for how often Triton compiles. Results are not to be read:
outputs stay as they were allocated. Not for a process in which Triton interprets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import count
from pkgutil import walk_packages
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver
from triton.runtime.jit import JITFunction

import kernels
from kernels.device import DeviceFacts, replaced

_numbers = count(2000)
"""Numbers of stand-in devices, so that Triton keeps their kernels apart."""


class StandIn(DriverBase, DeviceFacts):
    """Triton's active driver, and the facts about tensors of the CPU, which pass for the GPU's.

    Attributes:
        launches: how many there were.
    """

    def __init__(self, capability: int) -> None:
        self.launches = 0
        self._capability = capability
        self._device = next(_numbers)
        self.utils = self

    # What the kernels ask.

    def is_gpu(self, device: torch.device) -> bool:
        return device.type == "cpu"

    def is_interpreted(self, device: torch.device) -> bool:
        return False

    def capability(self, device: torch.device) -> int:
        return self._capability

    # What Triton asks.

    @classmethod
    def is_active(cls) -> bool:
        return False

    def get_current_device(self) -> int:
        return self._device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return torch.cpu

    def map_python_to_cpp_type(self, ty: str) -> str:
        from triton.backends.nvidia.driver import ty_to_cpp

        return ty_to_cpp(ty)

    def get_benchmarker(self) -> Any:
        raise RuntimeError("a stand-in has no time to measure")

    def get_empty_cache_for_benchmark(self) -> Any:
        raise RuntimeError("a stand-in has no time to measure")

    def load_binary(
        self, name: str, binary: bytes, shared: int, device: int
    ) -> tuple[Any, int, int, int, int]:
        """Module, function, registers, spills and most threads."""
        return self, 0, 0, 0, 1024

    def unload_module(self, module: Any) -> None:
        """Nothing was loaded."""

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 101_376, "max_num_regs": 65_536, "multiprocessor_count": 100}

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """Of one compiled kernel: counts, and looks at nothing."""

        def launch(*arguments: Any) -> None:
            self.launches += 1

        return launch

    def compilations(self) -> dict[str, int]:
        """Kernels that Triton compiled for this device, or found compiled on disk: by name, how
        many, by Triton's own keys."""
        counts = {}
        for kernel in jit_functions():
            if self._device in kernel.device_caches:
                compiled = kernel.device_caches[self._device][0]
                counts[f"{kernel.fn.__module__}.{kernel.fn.__name__}"] = len(compiled)
        return counts


def jit_functions() -> Iterator[JITFunction]:
    """Every `triton.jit` function of the kernels, those that others call included."""
    for module in walk_packages(kernels.__path__, kernels.__name__ + "."):
        for value in vars(import_module(module.name)).values():
            if isinstance(value, JITFunction) and value.fn.__module__ == module.name:
                yield value


class _NotCompiled:
    """Stands for a compiled kernel where nobody looks into it."""

    function = packed_metadata = None

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def launch_metadata(self, *_: Any) -> None:
        """There is none."""

    def run(self, *_: Any) -> None:
        """Triton's way to a launch."""
        driver.active.launches += 1

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:
        return self.run_with_stream

    def run_with_stream(self, *_: Any, stream: int) -> None:
        """The way around Triton's binding."""
        driver.active.launches += 1


@contextmanager
def standing_in(capability: int = 90, compiles: bool = True) -> Iterator[StandIn]:
    """Tensors of the CPU pass for those of such a GPU.

    Args:
        compiles: without, Triton makes its keys and compiles nothing, for when they are counted.
    """
    before = driver._active
    stand_in = StandIn(capability)
    driver.set_active(stand_in)
    make = triton.compiler.compile if compiles else _NotCompiled
    try:
        with replaced(stand_in), mock.patch.object(triton.compiler, "compile", make):
            yield stand_in
    finally:
        driver._active = before
