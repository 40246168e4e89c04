"""Helpers leave the answer to signals to their parent, and never outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context, spawn
from pathlib import Path

from seqformer.processes import deaf_children, exit_with_parent, serve

FORK = get_context("fork")


def wait_until(condition, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def help_(connection) -> None:
    exit_with_parent()
    connection.send(os.getpid())
    time.sleep(60)


def parent(connection) -> None:
    """A process group with a helper; it survives what its helper must survive."""
    os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: None)
    with deaf_children():
        FORK.Process(target=help_, args=(connection,), daemon=True).start()
    while True:
        time.sleep(1)


def test_helpers_hear_no_signal_of_their_group_and_die_with_their_parent():
    here, there = FORK.Pipe()
    process = FORK.Process(target=parent, args=(there,))
    process.start()
    helper = here.recv()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        os.killpg(process.pid, number)
    time.sleep(0.2)
    assert process.is_alive() and is_running(helper)
    os.kill(helper, signal.SIGSTOP)  # even one that hangs
    process.kill()
    process.join()
    assert wait_until(lambda: not is_running(helper))


def test_signals_reach_the_parent_after_the_block():
    received = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
    try:
        with deaf_children():
            os.kill(os.getpid(), signal.SIGUSR1)
        assert wait_until(lambda: received == [signal.SIGUSR1])
    finally:
        signal.signal(signal.SIGUSR1, before)


def fail() -> None:
    raise KeyError("key")


def say_to(path: Path) -> None:
    sys.stderr = path.open("w")
    serve("helper", fail)


def test_a_helper_that_fails_says_one_sentence(tmp_path):
    process = FORK.Process(target=say_to, args=(tmp_path / "err",))
    process.start()
    process.join()
    assert process.exitcode == 1
    (line,) = (tmp_path / "err").read_text().splitlines()
    assert line.startswith("helper: unexpected KeyError: 'key'; the traceback is in ")


def test_a_spawned_helper_whose_parent_is_gone_at_once_says_nothing():
    reader, writer = os.pipe()
    os.close(writer)  # the parent is gone
    with deaf_children():
        command = spawn.get_command_line(tracker_fd=reader, pipe_handle=reader)
    done = subprocess.run(command, pass_fds=[reader], capture_output=True, text=True, timeout=60)
    os.close(reader)
    assert done.returncode == 1 and done.stderr == ""
    assert spawn.get_command_line(tracker_fd=1, pipe_handle=1) != command
