"""The C code of the CPU paths: cached, safe beside others, and done without where there is none."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile

import pytest
import torch

import kernels
from kernels import c_library


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache folder, and nothing remembered from before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    quick = ["-O1" if flag == "-O3" else flag for flag in c_library.FLAGS]
    monkeypatch.setattr(c_library, "FLAGS", tuple(quick))
    remembered = (c_library.library, c_library._compiler)
    for function in remembered:
        function.cache_clear()
    yield tmp_path / "cache" / "seqformer" / "kernels"
    for function in remembered:
        function.cache_clear()


def attention() -> torch.Tensor:
    value = torch.randn(1, 12, 1, 4, generator=torch.Generator().manual_seed(0))
    return kernels.ms_deform_attn(
        value, [(3, 4)], torch.full((1, 2, 1, 1, 1, 2), 0.4), torch.ones(1, 2, 1, 1, 1)
    )


@pytest.mark.skipif(c_library._compiler() is None, reason="no C compiler")
def test_compiles_once_and_says_so(fresh, caplog):
    with caplog.at_level(logging.INFO):
        attention()
        c_library.library.cache_clear()
        attention()
    said = [r.getMessage() for r in caplog.records if "compiling" in r.getMessage()]
    assert said == [
        "compiling deformable_attention/cpu.c for float (once per machine, a few seconds)"
    ]
    assert [f.suffix for f in fresh.iterdir()] == [".so"]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"SEQFORMER_KERNELS_NATIVE": "0"}, None),
        ({"PATH": "", "CC": ""}, "no C compiler found"),
    ],
)
def test_without_a_compiler(fresh, environment, said, monkeypatch, caplog):
    expected = attention()
    c_library.library.cache_clear()
    c_library._compiler.cache_clear()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    torch.testing.assert_close(attention(), expected)
    messages = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert not said or any(said in m for m in messages)


def test_a_compiler_that_fails_is_named(fresh, monkeypatch, caplog, tmp_path):
    script = tmp_path / "badcc"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho oops >&2\nexit 1\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    point, weight = torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
    actual = kernels.ms_deform_attn(torch.ones(1, 1, 1, 4), [(1, 1)], point, weight)
    expected = torch.ones(1, 1, 4)
    assert torch.equal(actual, expected)
    (message,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "could not compile deformable_attention/cpu.c" in message and message.endswith("oops")
    assert not list(fresh.glob("*.so"))


MARKED = r"""
#include <stdlib.h>
#include <stdio.h>
__attribute__((constructor)) static void mark(void) { fclose(fopen(getenv("MARKER"), "w")); }
"""


def compiled() -> torch.Tensor:
    """As if the process had just begun."""
    c_library.library.cache_clear()
    return attention()


@pytest.fixture
def planted(fresh, monkeypatch, tmp_path):
    """A cache whose library was exchanged for one that leaves a trace when it is loaded."""
    expected = attention()
    (file,) = fresh.glob("*.so")
    (tmp_path / "mark.c").write_text(MARKED)
    command = ["cc", "-shared", "-fPIC", str(tmp_path / "mark.c"), "-o", str(tmp_path / "mark.so")]
    subprocess.run(command, check=True)
    file.unlink()
    digest = c_library._content_digest(tmp_path / "mark.so")
    file = file.with_name(f"{file.stem.rpartition('-')[0]}-{digest}.so")
    shutil.copy(tmp_path / "mark.so", file)
    file.chmod(0o700)
    monkeypatch.setenv("MARKER", str(tmp_path / "loaded"))
    return file, tmp_path / "loaded", expected


@pytest.mark.skipif(c_library._compiler() is None, reason="no C compiler")
@pytest.mark.parametrize("open_to_others", ["file", "folder", "link", "owner", "content"])
def test_what_somebody_else_may_have_put_there_is_not_loaded(planted, open_to_others, tmp_path):
    file, marker, expected = planted
    if open_to_others == "file":
        file.chmod(0o666)
    elif open_to_others == "folder":
        file.parent.chmod(0o777)
    elif open_to_others == "link":
        shutil.move(file, tmp_path / "elsewhere.so")
        file.symlink_to(tmp_path / "elsewhere.so")
    elif open_to_others == "content":
        file.write_bytes(file.read_bytes() + b"\0")
    elif os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    else:
        os.chown(file, 12345, -1)
    torch.testing.assert_close(compiled(), expected)
    assert not marker.exists()
    assert not file.parent.stat().st_mode & 0o022 and not file.exists()


@pytest.mark.skipif(c_library._compiler() is None, reason="no C compiler")
@pytest.mark.parametrize("damage", [b"", b"\x7fELF", None])
def test_a_damaged_library_is_made_anew(fresh, damage, caplog):
    expected = attention()
    (file,) = fresh.glob("*.so")
    content = file.read_bytes()
    file.unlink()  # this process still has it loaded
    file.write_bytes(content[:5000] if damage is None else damage)
    file.chmod(0o700)
    torch.testing.assert_close(compiled(), expected)
    assert file.stat().st_size > 5000
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_whatever_is_missing_there_is_one_warning(fresh, monkeypatch, caplog, tmp_path):
    """A library that cannot be loaded wherever it lies, as on a disk mounted noexec."""
    expected = attention()

    def fail(path: str) -> None:
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(c_library.ctypes, "CDLL", fail)
    torch.testing.assert_close(compiled(), expected)
    c_library.library("frame_masks", torch.float32)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "plain PyTorch" in warning


@pytest.mark.skipif(c_library._compiler() is None, reason="no C compiler")
@pytest.mark.parametrize("missing", ["home", "temporary folder", "room"])
def test_without_a_place_for_the_library(fresh, missing, monkeypatch, caplog):
    def fail(*arguments: object, **named: object) -> None:
        raise (
            RuntimeError("Could not determine home directory.")
            if missing == "home"
            else OSError(28, "No space left on device")
        )

    expected = attention()
    shutil.rmtree(fresh)
    c_library._temporary_folder.cache_clear()
    if missing == "home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(c_library.Path, "home", fail)
    if missing == "room":
        monkeypatch.setattr(tempfile, "mkstemp", fail)
    if missing != "home":
        monkeypatch.setattr(tempfile, "mkdtemp", fail)
    torch.testing.assert_close(compiled(), expected)
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == (missing == "room")
    c_library._temporary_folder.cache_clear()


@pytest.mark.skipif(c_library._compiler() is None, reason="no C compiler")
def test_a_cache_that_cannot_be_written(fresh, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    c_library._temporary_folder.cache_clear()
    attention()
    folder = c_library._temporary_folder()
    assert len(list(folder.glob("*.so"))) == 1
    shutil.rmtree(folder)
    c_library._temporary_folder.cache_clear()


def test_jobs_run_on_all_threads_and_raise_what_they_raise():
    done = []
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        c_library.run_jobs(done.append, [(i,) for i in range(20)])
        with pytest.raises(ZeroDivisionError):
            c_library.run_jobs(lambda x: 1 / x, [(1,), (0,)])
    finally:
        torch.set_num_threads(threads)
    assert sorted(done) == list(range(20))


def test_jobs_in_threads_are_in_inference_mode_too():
    """They write to tensors that only such threads may write to."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            made = torch.zeros(4)
            c_library.run_jobs(made.__setitem__, [(i, i + 1.0) for i in range(4)])
        assert made.tolist() == [1, 2, 3, 4]
        modes = []
        c_library.run_jobs(lambda: modes.append(torch.is_inference_mode_enabled()), [(), ()])
        assert modes == [False, False]
    finally:
        torch.set_num_threads(threads)
