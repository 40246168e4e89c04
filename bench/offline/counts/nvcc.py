"""CUDA sources compiled to PTX and machine code by the toolkit's compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class NvccError(RuntimeError):
    """The compiler's first errors, or that there is none."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A kernel's PTX text and its machine code."""

    ptx: str
    binary: bytes


def find() -> str | None:
    """Path of nvcc: that of NVCC in the environment, or the one on the path."""
    return shutil.which(os.environ.get("NVCC", "nvcc"))


def compile_kernel(
    source: str,
    capability: int,
    folders: Sequence[Path] = (),
    headers: Mapping[str, str] | None = None,
) -> Compiled:
    """One kernel for one kind of GPU.

    Args:
        source: CUDA text that leaves one entry.
        capability: compute capability as a number, 80 for 8.0.
        folders: where included files lie.
        headers: name -> text of files that stand before those of the folders.

    Raises: NvccError.
    """
    program = find()
    if program is None:
        raise NvccError("there is no nvcc; put it on the path or name it in NVCC")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for header, text in (headers or {}).items():
            path = folder / "headers" / header
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (folder / "kernel.cu").write_text(source)
        includes = [f"-I{path}" for path in (folder / "headers", *folders)]
        common = [program, f"-arch=sm_{capability}", "-w"]
        ptx, binary = folder / "kernel.ptx", folder / "kernel.cubin"
        _run([*common, "-std=c++20", "-ptx", *includes, str(folder / "kernel.cu"), "-o", str(ptx)])
        _run([*common, "-cubin", str(ptx), "-o", str(binary)])
        return Compiled(ptx=ptx.read_text(), binary=binary.read_bytes())


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in lines if "error" in line] or lines
        raise NvccError("nvcc failed: " + "; ".join(errors[:3]))
