"""The machine's C code: compiled at first use, once per machine, and loaded with ctypes.

The library lies in a folder of the user's own under a name made of the sources, the compiler and
the processor; a finished file is moved into place, so processes that compile at the same time do
not disturb one another.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

SOURCES = Path(__file__).parent / "core"
FLAGS = (
    "-O3",
    "-std=gnu11",
    "-fPIC",
    "-shared",
    # Every operation rounds as it is written; integers wrap around.
    "-ffp-contract=off",
    "-fwrapv",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
)


@lru_cache(maxsize=1)
def library() -> ctypes.PyDLL:
    """The machine. Its calls keep Python's lock, for it has state of its own.

    Raises: RuntimeError without a C compiler, or with what it says.
    """
    compiler = _compiler()
    sources = sorted(SOURCES.glob("*.c"))
    texts = [file.read_text() for file in sorted(SOURCES.glob("*.[ch]"))]
    key = "\0".join([*texts, *compiler, *FLAGS, _processor()])
    file = _folder() / f"emulator_{hashlib.sha256(key.encode()).hexdigest()[:20]}.so"
    if not file.exists():
        _compile(compiler[0], sources, file)
    return _declared(ctypes.PyDLL(str(file)))


def _declared(machine: ctypes.PyDLL) -> ctypes.PyDLL:
    machine.operation_name.restype = ctypes.c_char_p
    machine.operation_name.argtypes = [ctypes.c_int64]
    machine.row_length.restype = ctypes.c_int64
    machine.new_program.restype = ctypes.c_void_p
    machine.new_program.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    machine.free_program.argtypes = [ctypes.c_void_p]
    machine.run_launch.restype = ctypes.c_int64
    machine.run_launch.argtypes = [ctypes.c_void_p]
    return machine


@lru_cache(maxsize=1)
def operations() -> dict[str, int]:
    """Name of every operation of the machine -> its number."""
    names: dict[str, int] = {}
    while (name := library().operation_name(len(names))) is not None:
        names[name.decode()] = len(names)
    return names


def _compiler() -> tuple[str, str]:
    """Path and version: $CC, or the first of cc, gcc and clang."""
    for candidate in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        path = shutil.which(candidate) if candidate else None
        if path is not None:
            done = subprocess.run([path, "--version"], capture_output=True, text=True)
            if done.returncode == 0:
                return path, done.stdout.partition("\n")[0]
    raise RuntimeError("the emulator needs a C compiler (cc, gcc or clang), and there is none")


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return "".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))


def _folder() -> Path:
    """A folder that only this user can write to."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "seqformer" / "emulator"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return _temporary_folder()


@lru_cache(maxsize=1)
def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="seqformer-emulator-"))


def _compile(compiler: str, sources: list[Path], target: Path) -> None:
    """Compile next to the target and move into place."""
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".so")
    os.close(handle)
    message = ""
    for native in (["-march=native"], []):  # not every compiler knows its own processor
        command = [compiler, *FLAGS, *native, *map(str, sources), "-o", name, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            os.replace(name, target)
            return
        message = done.stderr.strip()
    os.unlink(name)
    raise RuntimeError(f"{compiler} could not compile the emulator: {message[-2000:]}")
