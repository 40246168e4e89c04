"""Processes that meet at a store where others have met before."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from seqformer.distributed.environment import Launch
from seqformer.distributed.errors import LostProcessError
from seqformer.distributed.rendezvous import Waiting, agree_on_name, meet
from tests.reliability.jobs import free_port

ROOT = Path(__file__).parents[2]


def agree(store: dist.Store, world_size: int) -> list[str]:
    """What `world_size` processes agree on, the last first."""
    names = [""] * world_size
    seconds = timedelta(seconds=20)

    def take_part(rank: int) -> None:
        names[rank] = agree_on_name(store.clone(), rank, world_size, seconds)

    threads = [threading.Thread(target=take_part, args=(r,)) for r in reversed(range(world_size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return names


def test_every_session_at_one_store_has_a_name_of_its_own():
    """torchrun keeps its store when it starts lost processes again."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    seen = set()
    for world_size in (3, 3, 2, 3, 1, 3):
        names = agree(store, world_size)
        assert len(set(names)) == 1 and names[0] and not seen & set(names)
        seen |= set(names)


def test_process_that_never_comes_is_said():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for rank in (0, 1):
        with pytest.raises(dist.DistStoreError, match="Timed out waiting"):
            agree_on_name(store, rank, 3, timedelta(seconds=0.1))


def wait_inside_torch(how: str) -> subprocess.CompletedProcess:
    """A command whose main thread waits for a key that never comes."""
    body = f"""
    from seqformer.command import Command, exit_with
    from seqformer.distributed.errors import LostProcessError
    from seqformer.distributed.rendezvous import Waiting
    import os, signal, sys, threading, time
    import torch.distributed as dist
    def main():
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        began = time.monotonic()
        if {how == "asked"}:
            threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
        def watch():
            return "rank 1 ended" if {how == "lost"} and time.monotonic() > began + 0.5 else None
        with Waiting(watch).attentive():
            store.get("never")
    command = Command("tool", error_code=3)
    exit_with("tool", lambda: command.run(main, lambda: (LostProcessError,)))
    """
    command = [sys.executable, "-c", textwrap.dedent(body)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)


@pytest.mark.parametrize(
    "how,code,words",
    [
        (
            "lost",
            3,
            "tool: error: another process of this run ended or is missing (rank 1 ended); its own "
            "message says why\n",
        ),
        ("asked", 143, "tool: stopped by SIGTERM\n"),
    ],
)
def test_a_wait_inside_torch_ends_when_another_is_lost_or_this_one_is_asked(how, code, words):
    done = wait_inside_torch(how)
    assert (done.returncode, done.stderr) == (code, words)


def test_our_waits_end_by_exceptions():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    check = Waiting(lambda: "rank 1 ended").check
    for rank in (0, 1):
        with pytest.raises(LostProcessError, match=r"missing \(rank 1 ended\); its own message"):
            agree_on_name(store, rank, 2, timedelta(seconds=20), check)
    where = Launch(1, 2, 1, address="127.0.0.1", port=free_port())
    with pytest.raises(LostProcessError):
        meet(where, 1, 2, timedelta(seconds=20), Waiting(lambda: "rank 0 ended"))
    with pytest.raises(dist.DistNetworkError, match="Timed out waiting"):
        meet(where, 1, 2, timedelta(seconds=0.3), Waiting(lambda: None))
    served = Launch(0, 2, 0, address="127.0.0.1", port=store.port)
    with pytest.raises(ValueError, match="is another run using the port"):
        meet(served, 0, 2, timedelta(seconds=5), Waiting(lambda: None))
    with pytest.raises(ValueError, match="MASTER_ADDR or MASTER_PORT is not set; start all"):
        meet(Launch(1, 2, 1), 1, 2, timedelta(seconds=1), Waiting(lambda: None))
