"""A stand-in for the CUDA driver: Triton's own launch path runs, and only the launch is ours.

Triton binds the arguments, specialises on them, looks into its caches, compiles, loads the binary
and calls a launcher. Here loading decodes the PTX that Triton compiled, and launching runs it. The
addresses are those of CPU tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.offline.emulator import Buffer, Program
from bench.offline.emulator.poison import written
from bench.offline.stand_in import StandIn

CAPABILITIES = (70, 75, 80, 86, 89, 90, 100, 120)
"""Compute capabilities that can be stood in for."""

_SHARED_BYTES = {70: 98_304, 75: 65_536, 80: 166_912, 86: 101_376, 89: 101_376}
_SHARED_BYTES |= {90: 232_448, 100: 232_448, 120: 101_376}
"""Shared memory that a block may have, by CUDA's documentation."""


class LoadedKernel:
    """What `load_binary` gives for a function: the program, and who it was compiled from."""

    def __init__(self, program: Program, ptx: str, binary: bytes) -> None:
        self.program = program
        self.ptx = ptx
        self.binary = binary


class EmulatingDriver(StandIn):
    """The active driver of Triton while a GPU is emulated, and the facts about its device.

    Args:
        capability: compute capability as a number, 90 for 9.0.
        launch: called with the launcher, the loaded kernel, the grid (x, y, z), the stream and the
            kernel's arguments, in place of the launch.
    """

    def __init__(self, capability: int, launch: Callable[..., None]) -> None:
        if capability not in CAPABILITIES:
            raise ValueError(
                f"no GPU of compute capability {capability} can be emulated; choose one of "
                f"{list(CAPABILITIES)}"
            )
        super().__init__(capability)
        self.utils = _Utils(capability)
        self.launch = launch

    def launcher_cls(self, source: Any, metadata: Any) -> Launcher:
        return Launcher(source, metadata)


class _Utils:
    """What Triton asks of a driver about devices and binaries."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.ptx_path: Path | None = None

    def before_load(
        self, module: Any, function: Any, name: str, files: dict[str, str], key: str
    ) -> None:
        """Triton's hook before a binary is loaded: remember where its PTX lies."""
        paths = [Path(path) for file, path in files.items() if file.endswith(".ptx")]
        if len(paths) != 1:
            raise RuntimeError(
                f"Triton kept {len(paths)} PTX files of {name}; unset TRITON_STORE_BINARY_ONLY"
            )
        self.ptx_path = paths[0]

    def load_binary(
        self, name: str, binary: bytes, shared: int, device: int
    ) -> tuple[Any, LoadedKernel, int, int, int]:
        """Module, function, registers, spilled bytes and most threads. There is no module, so
        nothing to unload."""
        if self.ptx_path is None:
            raise RuntimeError(f"{name} is loaded without Triton's hook before loading")
        ptx, self.ptx_path = self.ptx_path.read_text(), None
        return None, LoadedKernel(_decode(ptx, shared), ptx, binary), 0, 0, 1024

    def unload_module(self, module: Any) -> None:
        """Nothing to do."""

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {
            "max_shared_mem": _SHARED_BYTES[self.capability],
            "max_num_regs": 65_536,
            "multiprocessor_count": 108,
            "warpSize": 32,
            "sm_clock_rate": 0,
            "mem_clock_rate": 0,
            "mem_bus_width": 0,
        }


@cache
def _decode(ptx: str, shared: int) -> Program:
    return Program.decode(ptx, shared)


class Launcher:
    """Stands for Triton's launcher of one compiled kernel.

    Attributes:
        kernel: folder and name of the `triton.jit` function: "deformable_attention.forward_kernel".
        names, types: of all arguments, constants included.
        key: Triton's key of the compiled kernel.
        constants: argument -> value, for those that are compiled in.
    """

    def __init__(self, src: Any, metadata: Any) -> None:
        self.kernel = kernel_name(src.fn)
        self.names: list[str] = list(src.fn.arg_names)
        self.types: list[Any] = list(src.signature.values())
        self.key: str = metadata.hash
        self.constants = {
            self.names[path[0]]: value for path, value in src.constants.items() if len(path) == 1
        }
        for name in ("global_scratch_size", "profile_scratch_size"):
            if getattr(metadata, name, 0):
                raise RuntimeError(f"{metadata.name} needs scratch memory, which is not emulated")
        if metadata.num_ctas != 1 or getattr(metadata, "launch_cooperative_grid", False):
            raise RuntimeError(f"{metadata.name} is launched in clusters or as a cooperative grid")

    def __call__(
        self,
        grid_x: int,
        grid_y: int,
        grid_z: int,
        stream: int,
        function: LoadedKernel,
        packed_metadata: Any,
        launch_metadata: Any,
        enter_hook: Any,
        exit_hook: Any,
        *arguments: Any,
    ) -> None:
        from triton.runtime import driver

        if len(arguments) != len(self.types):
            raise TypeError(
                f"{function.program.name} takes {len(self.types)} arguments, constants included; "
                f"got {len(arguments)}"
            )
        if enter_hook is not None:
            enter_hook(launch_metadata)
        driver.active.launch(self, function, (grid_x, grid_y, grid_z), stream, arguments)
        if exit_hook is not None:
            exit_hook(launch_metadata)

    def flat(self, arguments: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        """Name and value of everything that the compiled kernel takes, in order: tuples unpacked,
        constants left out."""
        for name, type_, value in zip(self.names, self.types, arguments, strict=True):
            yield from _flat(name, type_, value)


def _flat(name: str, type_: Any, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(type_, tuple):
        for i, (inner_type, inner) in enumerate(zip(type_, value, strict=True)):
            yield from _flat(f"{name}[{i}]", inner_type, inner)
    elif type_ != "constexpr":
        yield name, value


def kernel_name(function: Any) -> str:
    """Folder and name of a `triton.jit` function: "deformable_attention.forward_kernel"."""
    return f"{function.fn.__module__.split('.')[-2:][0]}.{function.fn.__name__}"


def extent(tensor: Tensor) -> int:
    """Bytes from a tensor's first element to the end of its last: no more may be touched."""
    if tensor.numel() == 0:
        return 0
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def buffer_of(name: str, tensor: Tensor) -> Buffer:
    """The memory that a launch may touch through an argument, and what of it was ever written."""
    address, num_bytes = tensor.data_ptr(), extent(tensor)
    known = written(address, num_bytes)
    return Buffer(address, num_bytes, name, initialised=True if known is None else known)
