"""Programs: from PTX to what runs."""

from __future__ import annotations

from collections.abc import Sequence

from bench.offline.emulator.decode import decode
from bench.offline.emulator.decoded import Buffer, DecodedProgram, Launch, Options
from bench.offline.emulator.forms import ROW_LENGTH
from bench.offline.emulator.library import library, operations
from bench.offline.emulator.machine import run
from bench.offline.emulator.ptx import parse


class Program(DecodedProgram):
    """A decoded kernel, ready to run. Attributes as there."""

    @classmethod
    def decode(
        cls,
        ptx: str,
        shared_bytes: int = 0,
        *,
        entry: str | None = None,
        threads: int | tuple[int, int, int] | None = None,
    ) -> Program:
        """A program from PTX.

        Args:
            shared_bytes: what the launch gives beside the variables that the text declares.
            entry: which, where there are several.
            threads: of a block, needed where the text has no `.reqntid`.

        Raises: PtxError or DecodeError naming what is not emulated and its line.
        """
        kernel = parse(ptx, entry)
        if threads is None:
            threads = kernel.threads
        if threads is None:
            raise ValueError(f"{kernel.name} does not say how many threads it wants: give threads")
        if isinstance(threads, int):
            threads = (threads, 1, 1)
        if not 0 < threads[0] * threads[1] * threads[2] <= 1024:
            raise ValueError(f"a block has 1 to 1024 threads, not {threads}")
        if library().row_length() != ROW_LENGTH:
            raise RuntimeError("the emulator's two halves disagree about a row of the program")
        code = decode(kernel, operations())
        return cls(kernel, code, threads, shared_bytes)

    def run(
        self,
        grid: tuple[int, int, int],
        arguments: Sequence[int | float | bytes | Buffer | tuple[int | Buffer, ...]],
        buffers: Sequence[Buffer],
        options: Options | None = None,
    ) -> Launch:
        """Run blocks of a launch.

        Args:
            grid: blocks along x, y and z.
            arguments: the kernel's parameters; pointers as addresses or as their buffers,
                structures as bytes, or as a tuple where all members have 8 bytes. Parameters
                left out at the end are 0.
            buffers: all that pointers may reach, each within its own bounds, even where they touch
                or overlap. Of several at one address, the k-th pointer means the k-th.

        Raises: Fault; ValueError for arguments that do not fit.
        """
        return run(self, grid, arguments, buffers, options or Options())
