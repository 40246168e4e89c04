"""Before anything imports triton: without a GPU, its kernels run in the interpreter. One of several
test processes leaves the other cores to the others."""

import gc
import logging
import os
from collections import Counter

import pytest
import torch

from tests.interpreter import patch_once_a_launch, remember_types

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
if os.environ.get("TRITON_INTERPRET") == "1":
    patch_once_a_launch()
    remember_types()
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
    torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """`-n auto`: a process more than there are cores, since a fifth of the time tests wait for the
    processes that they start."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return 1 + (len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1)


def pytest_configure(config):
    """Files are given to processes in the order of collection, see below."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Several processes begin with the files of few tests: these take longest and wait most, and
    many short ones at the end leave no process alone with a long one."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: tests[item.path])


@pytest.fixture(autouse=True)
def _frees_memory(monkeypatch):
    """What a command in this process frees stays freed for the tests after it."""
    monkeypatch.setattr("seqformer.devices._set_malloc_option", lambda option, value: None)


@pytest.fixture(autouse=True)
def loggers_as_before():
    """A command that a test runs in this process sets up logging; the next test starts without."""
    loggers = [logging.getLogger(), logging.getLogger("seqformer")]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    yield
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers[:], each.level, each.propagate = handlers, level, propagate


def pytest_collection_finish():
    """What was imported and collected stays: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """The interpreter tidies up all when it ends."""
    gc.unfreeze()
