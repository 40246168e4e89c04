"""`pytest bench`: every case of the suite on the CPU. See `bench/suite/test_suite.py`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bench.report import terminal
from bench.suite import cases, record

ROWS, FACTS = pytest.StashKey[list](), pytest.StashKey[dict]()
MODULES = tuple(f"bench.suite.cases.{name}" for name in cases.MODULES)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmark suite")
    group.addoption("--measure", action="store_true", help="measure, at the size for CPUs")
    group.addoption("--wall", action="store_true", help="wall time on two threads as well")
    group.addoption("--out", type=Path, help="record to write; default: a new one of this device")
    group.addoption(
        "--cases-from",
        type=lambda text: tuple(text.split(",")),
        default=MODULES,
        metavar="MODULES",
        help="modules that declare cases, by full name, comma-separated; default: the suite's",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    if config.getoption("measure"):
        # pytest-benchmark reads these after us; its table knows one side of each case only.
        config.option.benchmark_disable = False
        config.option.benchmark_quiet = True
        config.stash[FACTS] = record.machine(torch.device("cpu"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One record of what was measured, be it all or what came before an interruption."""
    config = session.config
    if not config.stash[ROWS]:
        return
    load = list(os.getloadavg()) if hasattr(os, "getloadavg") else None
    found = record.new_record(
        "cpu", config.stash[FACTS], config.stash[ROWS], load_average_at_end=load
    )
    path = record.write(found, config.getoption("out"))
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"\n{terminal.of(found)}\n{path}")
