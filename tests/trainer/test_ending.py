"""A process of several that fails says why at once and is gone, whatever taking leave would do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqformer.command import UNEXPECTED

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
    assert [process.returncode for process in processes] == [1, UNEXPECTED]
    assert "unexpected ZeroDivisionError: a planted bug; the traceback is in" in errors[1]
    assert "another process of this run ended; its own message says why" in errors[0]
    assert "Traceback" not in errors[0] + errors[1]
