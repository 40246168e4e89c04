"""The C code of the CPU paths: cached, safe beside others, and done without where there is none."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch

import kernels
from kernels import native


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache folder, and nothing remembered from before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remembered = (native.library, native._compiler)
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


@pytest.mark.skipif(native._compiler() is None, reason="no C compiler")
def test_compiles_once_and_says_so(fresh, caplog):
    with caplog.at_level(logging.INFO):
        attention()
        native.library.cache_clear()
        attention()
    said = [r.getMessage() for r in caplog.records if "compiling" in r.getMessage()]
    assert said == ["compiling msda_cpu.c for float (once per machine, a few seconds)"]
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
    native.library.cache_clear()
    native._compiler.cache_clear()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    torch.testing.assert_close(attention(), expected)
    messages = [r.getMessage() for r in caplog.records]
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
    (message,) = [r.getMessage() for r in caplog.records]
    assert "could not compile msda_cpu.c" in message and message.endswith("oops")
    assert not list(fresh.glob("*.so"))


@pytest.mark.skipif(native._compiler() is None, reason="no C compiler")
def test_a_cache_that_cannot_be_written(fresh, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    native._temporary_folder.cache_clear()
    attention()
    folder = native._temporary_folder()
    assert len(list(folder.glob("*.so"))) == 1
    shutil.rmtree(folder)
    native._temporary_folder.cache_clear()


def test_jobs_run_on_all_threads_and_raise_what_they_raise():
    done = []
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        native.run_jobs(done.append, [(i,) for i in range(20)])
        with pytest.raises(ZeroDivisionError):
            native.run_jobs(lambda x: 1 / x, [(1,), (0,)])
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
            native.run_jobs(made.__setitem__, [(i, i + 1.0) for i in range(4)])
        assert made.tolist() == [1, 2, 3, 4]
        modes = []
        native.run_jobs(lambda: modes.append(torch.is_inference_mode_enabled()), [(), ()])
        assert modes == [False, False]
    finally:
        torch.set_num_threads(threads)
