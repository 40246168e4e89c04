"""C code of the CPU paths: compiled at first use, once per machine, and loaded with ctypes.

The sources are plain C without headers of Python or torch, so that compiling takes a second or two
and cannot break with a new version of either. The library lies in the user's cache folder under a
name made of the source, the compiler, the processor and its own content; finished files are moved
into place, so processes that compile at the same time do not disturb one another.

A library is loaded only if it and its folder belong to this user (or root), nobody else may write
to them, and its content is what its name says: another is compiled anew. Where that, too, fails
(no compiler, no room, a folder from which nothing may be executed), a private temporary folder is
tried, and then the callers take a path in plain PyTorch; it is said once.

This file imports nothing of ours, and torch only to run jobs, so that whoever has other C code can
load it by its path without loading torch: see `compiled`.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import logging
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from concurrent.futures import ThreadPoolExecutor

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

_FOLDER = Path(__file__).parent
_REAL = {
    "torch.float32": ("float", "f"),
    "torch.float64": ("double", ""),
    "torch.bfloat16": ("float", "f"),
}


class UnavailableError(Exception):
    """There is no compiled library; the message says why."""


_has_warned = False
_reasons: dict[tuple[str, torch.dtype], str] = {}
"""Why `library` gave None."""


@lru_cache(maxsize=16)
def library(name: str, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled `<name>/cpu.c` for REAL = float or double; for bfloat16 with float between.

    Returns: None where there is none to be had; the first reason is logged, once.
    """
    global _has_warned
    if library.cache_info().currsize == 0:  # nothing is remembered, so nothing has been said
        _has_warned = False
    _reasons.pop((name, dtype), None)
    if os.environ.get(DISABLE_VARIABLE) == "0":
        _reasons[name, dtype] = f"{DISABLE_VARIABLE} is 0"
        return None
    try:
        return _compiled(name, dtype)
    except UnavailableError as reason:
        level = logging.DEBUG if _has_warned else logging.WARNING
        logger.log(
            level, "the CPU kernels run in plain PyTorch, which is several times slower: %s", reason
        )
        _has_warned = True
        _reasons[name, dtype] = str(reason)
        return None


def why_not(name: str, dtype: torch.dtype) -> str:
    """Why `library` gave None for these arguments."""
    return _reasons.get((name, dtype), "the C code is switched off")


def _compiled(name: str, dtype: torch.dtype) -> ctypes.CDLL:
    """The library, from the cache or made now. Raises: UnavailableError."""
    real, suffix = _REAL[str(dtype)]
    defines = [f"-DREAL={real}", f"-DFLOOR=floor{suffix}", f"-DEXP=exp{suffix}"]
    defines += ["-DBFLOAT16"] * (str(dtype) == "torch.bfloat16")
    headers = sorted(_FOLDER.glob("*.h"))
    return compiled(_FOLDER / name / "cpu.c", headers, f"{name}_{real}", [*FLAGS, *defines])


def compiled(
    source: Path, headers: Sequence[Path], label: str, flags: Sequence[str], asks: bool = True
) -> ctypes.CDLL:
    """The library of a C file, from the cache or made now.

    Args:
        headers: the files that it includes.
        label: the first part of the library's name; letters, digits and underscores.
        flags: of the compiler.
        asks: whether another compiler means another library. Without, one from the cache is loaded
            at once; else the compiler is started to ask its version.

    Raises: UnavailableError.
    """
    if not hasattr(os, "geteuid"):
        raise UnavailableError("C code is compiled on Linux and macOS only")
    version = _compiler() if asks else ()
    if version is None:
        raise UnavailableError("no C compiler found (cc, gcc or clang)")
    try:
        texts = [file.read_text() for file in (source, *headers)]
    except OSError as error:
        raise UnavailableError(f"the source of {label} cannot be read ({error})") from None
    key = [*texts, *version, *flags, _processor()]
    stem = f"{label}_{hashlib.sha256(chr(0).join(key).encode()).hexdigest()[:20]}"
    problems = []
    for choose in (_cache_folder, _temporary_folder):
        try:
            return _from_folder(choose(), stem, source, flags)
        except OSError as error:
            problems.append(f"{_name(source)} cannot be kept or loaded ({error})")
        except UnavailableError as reason:
            problems.append(str(reason))
    raise UnavailableError(problems[0])


def _from_folder(folder: Path, stem: str, source: Path, flags: Sequence[str]) -> ctypes.CDLL:
    """Load what lies in a folder, or compile there. Raises: UnavailableError, OSError."""
    is_ours = _is_private(folder)
    for file in sorted(folder.glob(f"{stem}-*.so")):
        if is_ours and _is_sound(file):
            try:
                return ctypes.CDLL(str(file))
            except OSError as error:
                logger.debug("%s cannot be loaded (%s)", file, error)
        file.unlink()
    if not is_ours:
        folder.chmod(0o700)  # fails where it belongs to somebody else
        if not _is_private(folder):
            raise UnavailableError(f"others may write to {folder}")
    compiler = _compiler()
    if compiler is None:
        raise UnavailableError("no C compiler found (cc, gcc or clang)")
    reals = [f" for {real}" for real in ("float", "double") if f"_{real}_" in stem]
    what = _name(source) + "".join(reals)
    logger.info("compiling %s (once per machine, a few seconds)", what)
    return ctypes.CDLL(str(_compile(compiler[0], source, flags, folder, stem)))


def _name(source: Path) -> str:
    """Folder and file."""
    return f"{source.parent.name}/{source.name}"


def _is_private(path: Path) -> bool:
    """Whether a file or folder belongs to this user or root and nobody else may change it."""
    status = path.stat()
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o022


def _is_sound(file: Path) -> bool:
    """Whether a library may be loaded: private, no link, and of the content that its name says."""
    if file.is_symlink() or not file.is_file() or not _is_private(file):
        return False
    return file.stem.rpartition("-")[2] == _content_digest(file)


def _content_digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:20]


def run_jobs(call: Callable[..., object], jobs: Sequence[Sequence[object]]) -> None:
    """Call a function with the arguments of every job, on as many threads as torch uses, which are
    in inference mode if this one is."""
    import torch

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
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(threads, thread_name_prefix="seqformer-kernels")


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


@lru_cache(maxsize=1)
def _compiler() -> tuple[str, str] | None:
    """Path and version of the C compiler: $CC, or the first of cc, gcc and clang."""
    import shutil

    for candidate in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        path = shutil.which(candidate) if candidate else None
        if path is not None:
            done = _run([path, "--version"], seconds=60)
            if not isinstance(done, str) and done.returncode == 0:
                return path, done.stdout.partition("\n")[0]
    return None


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str] | str:
    """A command that has ended, or why it could not be run."""
    import subprocess

    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


@lru_cache(maxsize=1)
def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    keys = ("model name", "flags", "Features", "CPU part")
    first = {line.partition(":")[0].strip(): line for line in reversed(lines)}
    return platform.machine() + "".join(first.get(key, "") for key in keys)


def _cache_folder() -> Path:
    """The user's cache, made where it is missing. Raises: UnavailableError, OSError."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    except (RuntimeError, KeyError):  # neither $HOME nor an entry in the list of users
        raise UnavailableError("there is no home folder to keep it in") from None
    folder = root / "seqformer" / "kernels"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK) and not any(folder.glob("*.so")):
        raise UnavailableError(f"{folder} cannot be written")
    return folder


@lru_cache(maxsize=1)
def _temporary_folder() -> Path:
    """A private folder that goes with this process. Raises: OSError."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="seqformer-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _compile(compiler: str, source: Path, flags: Sequence[str], folder: Path, stem: str) -> Path:
    """Compile into a folder and move into place. Raises: UnavailableError, OSError."""
    import tempfile

    handle, name = tempfile.mkstemp(dir=folder, suffix=".so")
    os.close(handle)
    file = Path(name)
    message = "no message"
    try:
        for native in (["-march=native"], []):  # not every compiler knows its own processor
            command = [compiler, *flags, *native, str(source), "-o", name, "-lm"]
            done = _run(command, seconds=600)
            if isinstance(done, str):
                message = done
            elif done.returncode == 0 and file.stat().st_size:
                file.chmod(0o700)
                target = folder / f"{stem}-{_content_digest(file)}.so"
                os.replace(file, target)
                return target
            else:
                message = (done.stderr.strip().splitlines() or [message])[-1]
    finally:
        file.unlink(missing_ok=True)
    raise UnavailableError(f"{compiler} could not compile {_name(source)}: {message}")
