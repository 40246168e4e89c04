"""C code of the CPU paths: compiled at first use, once per machine, and loaded with ctypes.

The sources are plain C without headers of Python or torch, so that compiling takes a second or two
and cannot break with a new version of either. The library lies in the user's cache folder under a
name made of the source, the compiler and the processor; finished files are moved into place, so
processes that compile at the same time do not disturb one another. Where there is no C compiler the
callers take a path in plain PyTorch, and it is said once.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

FLAGS = (
    "-O3",
    "-std=gnu11",
    "-fPIC",
    "-shared",
    # Sums may be split over vector lanes; infinities and NaN keep their meaning.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fassociative-math",
    "-ffp-contract=fast",
)
DISABLE_VARIABLE = "SEQFORMER_KERNELS_NATIVE"
"""Set to 0, nothing is compiled and the paths in plain PyTorch are taken."""

_REAL = {torch.float32: ("float", "f"), torch.float64: ("double", "")}


@lru_cache(maxsize=16)
def library(name: str, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled `<name>.c` of this folder for REAL = float or double.

    Returns: None where it cannot be compiled; the reason is logged once.
    """
    if os.environ.get(DISABLE_VARIABLE) == "0":
        return None
    compiler = _compiler()
    if compiler is None:
        logger.warning(
            "no C compiler found (cc, gcc or clang): the CPU kernels run in plain PyTorch, which "
            "is several times slower"
        )
        return None
    source = Path(__file__).with_name(f"{name}.c")
    real, suffix = _REAL[dtype]
    defines = [f"-DREAL={real}", f"-DFLOOR=floor{suffix}", f"-DEXP=exp{suffix}"]
    headers = [header.read_text() for header in sorted(source.parent.glob("*.h"))]
    key = [source.read_text(), *headers, *compiler, *FLAGS, *defines, _processor()]
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:20]
    file = _cache_folder() / f"{name}_{real}_{digest}.so"
    if not file.exists():
        logger.info("compiling %s.c for %s (once per machine, a few seconds)", name, real)
        error = _compile(compiler[0], source, defines, file)
        if error is not None:
            logger.warning(
                "%s could not compile %s, so the CPU kernels run in plain PyTorch: %s",
                compiler[0],
                source.name,
                error,
            )
            return None
    return ctypes.CDLL(str(file))


def run_jobs(call: Callable[..., object], jobs: Sequence[Sequence[object]]) -> None:
    """Call a function with the arguments of every job, on as many threads as torch uses, which are
    in inference mode if this one is."""
    if len(jobs) <= 1 or torch.get_num_threads() == 1:
        for job in jobs:
            call(*job)
        return
    is_inference = torch.is_inference_mode_enabled()

    def run(job: Sequence[object]) -> None:
        with torch.inference_mode() if is_inference else nullcontext():
            call(*job)

    # list() waits, and raises what a job raised
    list(_pool(torch.get_num_threads()).map(run, jobs))


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="seqformer-kernels")


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


@lru_cache(maxsize=1)
def _compiler() -> tuple[str, str] | None:
    """Path and version of the C compiler: $CC, or the first of cc, gcc and clang."""
    for candidate in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        path = shutil.which(candidate) if candidate else None
        if path is not None:
            done = subprocess.run([path, "--version"], capture_output=True, text=True)
            if done.returncode == 0:
                return path, done.stdout.partition("\n")[0]
    return None


@lru_cache(maxsize=1)
def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    first = {line.partition(":")[0].strip(): line for line in reversed(lines)}
    return platform.machine() + "".join(first.get(key, "") for key in wanted)


def _cache_folder() -> Path:
    """The user's cache, or a private temporary folder where that cannot be written."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "seqformer" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return _temporary_folder()


@lru_cache(maxsize=1)
def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="seqformer-kernels-"))


def _compile(compiler: str, source: Path, defines: list[str], target: Path) -> str | None:
    """Compile next to the target and move into place. Returns: what went wrong, or None."""
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".so")
    os.close(handle)
    message = None
    for native in (["-march=native"], []):  # not every compiler knows its own processor
        command = [compiler, *FLAGS, *native, *defines, str(source), "-o", name, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            os.replace(name, target)
            return None
        message = (done.stderr.strip().splitlines() or ["no message"])[-1]
    os.unlink(name)
    return message
