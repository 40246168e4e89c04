"""A process of several that fails says why at once and is gone, whatever taking leave would do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqformer.trainer import ending

ROOT = Path(__file__).parents[2]
SECONDS = 120
"""Two processes that import torch; the time limit of a collective would be 30 minutes."""


@pytest.mark.distributed
def test_a_failing_process_is_heard_of_though_taking_leave_hangs(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.trainer.failing_rank", str(tmp_path / "run")],
            cwd=ROOT,
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    until = time.monotonic() + SECONDS
    try:
        errors = [p.communicate(timeout=until - time.monotonic())[1] for p in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [1, 1]
    assert "ZeroDivisionError: a planted bug" in errors[1]
    assert "train.py: another process of this run ended; its own message says why" in errors[0]
    assert "Traceback" not in errors[0]


@pytest.mark.parametrize("code", [1, 130])
def test_alone_it_ends_as_programs_do(code, monkeypatch, capsys):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("left without cleaning up"))
    with pytest.raises(SystemExit) as ended:
        ending.end_process("train.py: a sentence", code)
    assert ended.value.code == code and capsys.readouterr().err == "train.py: a sentence\n"


def test_alone_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ZeroDivisionError):
        try:
            raise ZeroDivisionError
        except Exception:
            ending.end_with_traceback()
