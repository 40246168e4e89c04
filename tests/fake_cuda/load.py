"""Load the fake CUDA guard; it must be in the process before torch is.

`guard.cpp` is compiled at first use, once per torch, with the compiler's g++ and torch's headers.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")


def why_not() -> str | None:
    """What is missing here, in words; None where the guard can be built."""
    if shutil.which("g++") is None:
        return "no C++ compiler (g++) to build the fake CUDA guard with"
    if not (_torch() / "lib" / "libtorch_cpu.so").exists():
        return "torch is not built as shared libraries"
    if (_torch() / "lib" / "libtorch_cuda.so").exists():
        return "torch is built with CUDA, which has a guard of its own"
    return None


def load() -> None:
    """Raises: AssertionError when torch is loaded already; CalledProcessError from the compiler."""
    assert "torch" not in sys.modules, "the guard must be registered before torch is imported"
    libraries = _torch() / "lib"
    for name in ("libtorch_global_deps.so", "libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(libraries / name), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(_built()), mode=ctypes.RTLD_GLOBAL)


def _torch() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _built() -> Path:
    root = _torch()
    version = (root / "version.py").read_bytes()
    digest = hashlib.sha256(SOURCE.read_bytes() + version + bytes(root)).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"seqformer-fake-cuda-{os.getuid()}" / f"{digest}.so"
    if target.exists():
        return target
    target.parent.mkdir(mode=0o700, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}")
    headers = [f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}"]
    command = ["g++", "-shared", "-fPIC", "-std=c++20", "-w", "-O0", *headers, str(SOURCE)]
    subprocess.run([*command, "-o", str(part)], check=True)
    part.rename(target)
    return target
