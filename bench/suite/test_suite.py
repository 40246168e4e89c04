"""The suite on the CPU: every case of `bench/suite/cases/`.

    pytest bench                       # smoke: tiny sizes; sides run and agree; nothing is timed
    pytest bench --measure             # all cases at the size for CPUs, one record at the end
    pytest bench --measure -k msda --out record.json --wall

With `--measure`: sides must agree first; then they take turns in one process on one thread, one
warm-up round and the case's rounds, by processor time of the process; then each side's peak memory
in a fresh process; with `--wall`, wall time on two threads too. The record goes to
`bench/results/cpu/`, or to `--out`; an interrupted run writes what it has. `--cases-from MODULES`
takes cases declared elsewhere.
"""

from __future__ import annotations

import time

import pytest
import torch

from bench.conftest import ROWS
from bench.suite.interleaved import measure, num_threads
from bench.suite.memory import cases_of
from bench.suite.schema import Case, check_agreement

CPU = torch.device("cpu")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_measured = metafunc.config.getoption("measure")
    size = "cpu" if is_measured else "smoke"
    marks = [pytest.mark.timeout(0)] if is_measured else []
    declared = [
        pytest.param(module, case, id=case.name, marks=marks)
        for module in metafunc.config.getoption("cases_from")
        for case in cases_of([module], size)
    ]
    metafunc.parametrize(("module", "case"), declared)


@pytest.mark.benchmark(timer=time.process_time)
def test_suite(module: str, case: Case, request: pytest.FixtureRequest) -> None:
    names = [side.name for side in case.sides_on(CPU)]
    if "ours" not in names:
        pytest.skip("needs what this machine does not have")
    if not request.config.getoption("measure"):
        calls = {side.name: side.build(CPU) for side in case.sides_on(CPU)}
        check_agreement(case, {name: call() for name, call in calls.items()})
        return
    benchmark = request.getfixturevalue("benchmark")
    with num_threads(1):
        row = measure(benchmark, module, case, time.process_time, request.config.getoption("wall"))
    request.config.stash[ROWS].append(row)
