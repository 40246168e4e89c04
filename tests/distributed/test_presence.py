"""A process of this machine that ends before all have met, or never comes, is missed at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from seqformer.distributed import presence
from seqformer.distributed.environment import Launch, launch
from seqformer.distributed.presence import Presence, announced

FORK = get_context("fork")
SECONDS = 20
"""Of a busy machine; alone it is a third of one."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names without files are Linux's")


def launched(rank: int, world_size: int = 2, **more) -> Launch:
    more = {"address": "127.0.0.1", "port": 1, "attempt": (str(os.getpid()),)} | more
    return Launch(rank, world_size, rank, **more)


def lost(seen: Presence, seconds: float = SECONDS) -> str | None:
    """What is said within so long."""
    end = time.monotonic() + seconds
    while seen.lost() is None and time.monotonic() < end:
        time.sleep(0.02)
    return seen.lost()


def names() -> list[str]:
    """Of this run's processes that are there; the connections to them have the same names."""
    run = presence._name(launched(0), 0)[1:-1].decode()
    lines = Path("/proc/net/unix").read_text().splitlines()
    return [line for line in lines if f"@{run}" in line and line.split()[3] == "00010000"]


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    monkeypatch.setattr(presence, "LOOK_SECONDS", 0.1)


@pytest.fixture
def here() -> Iterator[Presence]:
    one = Presence(launched(0))
    yield one
    one.close()


def stay(where: Launch, answer, has_helper: bool = False) -> None:
    seen = Presence(where)
    if has_helper:
        helper = FORK.Process(target=signal.pause)
        helper.start()
        answer.send(helper.pid)
    else:
        answer.send(None)
    signal.pause()
    seen.close()


def other(where: Launch, has_helper: bool = False):
    """Another process that is there; and its helper's number."""
    mine, theirs = FORK.Pipe()
    process = FORK.Process(target=stay, args=(where, theirs, has_helper))
    process.start()
    return process, mine.recv()


@pytest.mark.parametrize("has_helper", [False, True])
def test_a_killed_process_is_missed_whatever_helpers_it_leaves(here, has_helper):
    process, helper = other(launched(1), has_helper)
    assert lost(here, 0.5) is None
    process.kill()
    process.join()
    try:
        assert lost(here) == "rank 1 ended before all had met"
    finally:
        if helper is not None:
            os.kill(helper, signal.SIGKILL)


def test_one_that_is_started_again_at_once_is_not_missed(here):
    process, _ = other(launched(1))
    assert lost(here, 1) is None
    process.kill()
    process.join()
    again, _ = other(launched(1))
    assert lost(here, 1) is None
    again.kill()
    again.join()
    assert lost(here) is not None


def test_one_that_never_comes_is_given_up(monkeypatch):
    monkeypatch.setattr(presence, "NEVER_CAME_SECONDS", 0.5)
    here = Presence(launched(0))
    assert lost(here) == "rank 1 of this machine has not begun 0 s after rank 0"
    here.close()


@pytest.mark.parametrize(
    "where",
    [
        launched(0, address="node1"),  # who is on this machine is not known
        launched(0, address="node1", local_world_size=1),
    ],
)
def test_other_machines_are_not_waited_for_here(where, monkeypatch):
    monkeypatch.setattr(presence, "NEVER_CAME_SECONDS", 0.5)
    here = Presence(where)
    assert lost(here, 1) is None
    here.close()


def test_ranks_that_do_not_follow_one_another_are_not_given_up(monkeypatch):
    """`srun --distribution=cyclic`: ranks 0 and 2 are here, although 0 and 1 were expected."""
    monkeypatch.setattr(presence, "NEVER_CAME_SECONDS", 0.5)
    process, _ = other(launched(2, 4, address="node1", local_world_size=2))
    here = Presence(launched(0, 4, address="node1", local_world_size=2))
    assert lost(here, 1) is None
    process.kill()
    process.join()
    assert lost(here) == "rank 2 ended before all had met"
    here.close()


def test_another_attempt_at_the_same_address_is_another_run(here):
    process, _ = other(launched(1, attempt=("restart 1",)))
    process.kill()
    process.join()
    assert lost(here, 1) is None


def test_who_has_met_misses_nobody_and_is_seen_until_the_end():
    with announced(launched(0)):
        here = presence.current
        process, _ = other(launched(1))
        here.have_met()
        process.kill()
        process.join()
        assert lost(here, 0.5) is None and len(names()) == 1
    assert presence.current is None and names() == []
    with announced(Launch()):
        assert presence.current is None


def test_a_name_that_is_taken_is_said_and_no_end(here, monkeypatch, caplog):
    monkeypatch.setattr(presence, "_BUSY_SECONDS", 0.1)
    monkeypatch.setattr(presence, "NEVER_CAME_SECONDS", 0.3)
    second = Presence(launched(0))
    assert "cannot see whether this one is there (Address already in use" in caplog.text
    assert lost(second, 1) is None
    second.close()


@pytest.mark.parametrize(
    "given,ranks",
    [
        ({}, range(1)),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, range(2, 4)),
        ({"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "localhost"}, range(4)),
        ({"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "node1"}, None),
        ({"WORLD_SIZE": "4", "RANK": "0", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        ({"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "2"}, None),
    ],
)
def test_which_ranks_are_on_this_machine(given, ranks):
    assert launch({"MASTER_ADDR": "127.0.0.1", **given}).local_ranks == ranks


@pytest.mark.parametrize(
    "given,words",
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; needed is a whole number from 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK is '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2 but WORLD_SIZE is 2"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT is '99999'; needed .* from 0 to 65535"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE is '999"),
    ],
)
def test_variables_that_make_no_sense_are_named(given, words):
    with pytest.raises(ValueError, match=words):
        launch(given)
