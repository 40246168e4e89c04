"""Ranks of one machine that need a kernel at the same time: one compiles, the others wait."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import pytest

from kernels import compile_once

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    compile_once.fcntl is None or find_spec("triton") is None, reason="needs triton and POSIX"
)

RANK = """
import os, time
import torch, triton
from triton.backends.nvidia.compiler import CUDABackend
from bench.offline.emulator.session import emulated
import kernels

make = CUDABackend.make_ttir

def slow(*arguments, **named):  # so that a rank without a lock would compile at the same time
    time.sleep(2)
    print("compiled", flush=True)
    return make(*arguments, **named)

CUDABackend.make_ttir = staticmethod(slow)
print("ready", flush=True)
input()
with emulated(90), kernels.use_backend("triton"):
    masks = kernels.threshold_masks(torch.randn(1, 3, 4), (5, 6), False)
assert masks.shape == (1, 6, 5)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return tmp_path


def outputs_of_ranks(number: int) -> list[str]:
    """What ranks say that reach their first launch at the same time."""
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "LOCAL_WORLD_SIZE": str(number),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(number)
    ]
    for rank in ranks:
        assert rank.stdout.readline() == "ready\n"
    for rank in ranks:
        rank.stdin.write("\n")
        rank.stdin.flush()
    said = [rank.communicate()[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * number
    return said


def test_two_ranks_compile_once():
    assert sorted(outputs_of_ranks(2)) == ["", "compiled\n"]


def hold(started, form):
    """Lock and never finish."""
    with compile_once.turn(form):
        started.set()
        time.sleep(60)


@pytest.fixture
def holder():
    context = get_context("fork")
    started = context.Event()
    process = context.Process(target=hold, args=(started, "form"), daemon=True)
    process.start()
    assert started.wait(30)
    yield process
    process.kill()
    process.join()


def test_a_rank_that_dies_holds_nobody_up(holder):
    holder.kill()
    start = time.monotonic()
    with compile_once.turn("form"):
        pass
    assert time.monotonic() - start < 10


def test_nobody_waits_for_ever(holder, monkeypatch):
    monkeypatch.setattr(compile_once, "LONGEST_WAIT", 0.2)
    with compile_once.turn("form"):
        assert holder.is_alive()


def test_what_is_compiled_is_waited_for_by_nobody(holder):
    """Another form's lock, and a form that is done."""
    with compile_once.turn("another"):
        pass
    with compile_once.turn("another"), compile_once.turn("another"):
        assert holder.is_alive()


def test_a_failed_compilation_leaves_its_turn_to_the_next(cache):
    with pytest.raises(RuntimeError), compile_once.turn("form"):
        raise RuntimeError("does not compile")
    (file,) = (cache / "seqformer-turns").iterdir()
    assert file.stat().st_size == 0
    with compile_once.turn("form"):
        pass
    assert file.read_bytes() == b"compiled"


def test_one_process_alone_takes_no_turns(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert not compile_once.is_shared()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert compile_once.is_shared()
