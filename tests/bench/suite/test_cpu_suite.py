"""The runner of `pytest bench`: turns, ratios, agreement, and the record."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import kernels
from bench.report import terminal
from bench.suite import interleaved, memory, record
from bench.suite.cases import mask_head, msda
from bench.suite.schema import Case, Side
from tests.bench.suite import planted

ROOT = Path(__file__).parents[3]


class Clock:
    """Advances only when something is done."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, *seconds: float):
        """A call that takes these seconds, one after another, the last again and again."""
        left = list(seconds)

        def call() -> float:
            self.done.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return 1.0

        return call


class Pedantic:
    """pytest-benchmark's fixture, as far as it is used: the set-up is outside of the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[]))

    def pedantic(self, target, setup, rounds, warmup_rounds):
        for number in range(warmup_rounds + rounds):
            setup()
            start = self.clock()
            target()
            if number >= warmup_rounds:
                self.stats.stats.data.append(self.clock() - start)


def test_sides_take_turns_and_the_first_round_warms_up():
    clock = Clock()
    calls = {
        "ours": clock.work("ours", 50.0, 1.0),
        "published": clock.work("published", 70.0, 3.0),
        "other": clock.work("other", 2.0),
    }
    seconds = interleaved.seconds_in_turns(Pedantic(clock), calls, 3, clock)
    assert clock.done == ["published", "other", "ours"] * 4
    assert seconds == {"ours": [1.0] * 3, "published": [3.0] * 3, "other": [2.0] * 3}


def test_wall_time_takes_turns_too():
    clock = Clock()
    calls = {"ours": clock.work("ours", 9.0, 1.0), "published": clock.work("published", 9.0, 2.0)}
    seconds = interleaved.wall_seconds_in_turns(calls, 2, threads=1, clock=clock)
    assert clock.done == ["ours", "published"] * 3
    assert seconds == {"ours": [1.0] * 2, "published": [2.0] * 2}


def test_ratios_of_a_row():
    clock = Clock()
    # The first two calls are those whose outputs are compared, and the warm-up.
    ours = clock.work("ours", 8.0, 8.0, 1.0, 2.0, 1.0)
    published = clock.work("published", 8.0, 8.0, 3.0, 8.0, 4.0)
    case = Case(
        name="planted",
        op="planted",
        group="kernels",
        sides=(
            Side(name="ours", build=lambda device: ours),
            Side(name="published", build=lambda device: published),
        ),
        rounds=3,
        memory=False,
    )
    row = interleaved.measure(Pedantic(clock), "tests.bench.suite.planted", case, clock)
    assert row["sides"]["ours"]["seconds"]["samples"] == [1.0, 2.0, 1.0]
    assert row["sides"]["published"]["clock"] == "process"
    assert row["ratios"]["published"] == {"time": 4.0, "time_by_round": 4.0, "memory": None}
    assert "ours is 4.00x as fast" in "\n".join(terminal.lines_of(row))


def test_a_side_that_does_other_work_is_not_timed():
    clock = Clock()
    (wrong,) = [
        c for c in memory.cases_of(["tests.bench.suite.planted"], "cpu") if "wrong" in c.name
    ]
    with pytest.raises(AssertionError, match="published"):
        interleaved.measure(Pedantic(clock), "tests.bench.suite.planted", wrong, clock)


@pytest.mark.parametrize(
    ("cases", "module"),
    [(msda, kernels.deformable_attention.cpu), (mask_head, kernels.mask_head.cpu)],
    ids=["msda", "mask head"],
)
def test_without_a_compiler_nothing_compiled_runs(cases, module, monkeypatch):
    """Not in the backward pass either."""
    cpu = torch.device("cpu")
    for case in cases.cases("smoke"):
        sides = {side.name: side for side in case.sides_on(cpu)}
        if "no compiler" not in sides:
            continue
        ours, without = sides["ours"].build(cpu), sides["no compiler"].build(cpu)
        with monkeypatch.context() as patch:
            asked: list[tuple] = []
            patch.setattr(module, "library", lambda *given, asked=asked: asked.append(given))
            without()
            assert asked == []
            ours()
            assert len(asked) == (2 if case.direction == "both" else 1)


def test_memory_of_a_side_of_a_declared_case():
    grown = memory.peak_growth_in_fresh_process(
        ["bench.suite.cases.frame_masks"], "cpu", "draw masks T=36 720x1280", "published"
    )
    assert grown is None or grown > 4 * 36 * 720 * 1280  # float32 pixels, before the comparison
    with pytest.raises(KeyError):
        memory.peak_growth_in_fresh_process(
            ["bench.suite.cases.frame_masks"], "cpu", "none", "ours"
        )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's heap")
def test_holes_between_tensors_are_not_counted():
    """Twice 16 MiB, the first freed before the second is asked for."""
    peaks = []
    for returned in (True, False):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peaks.append(pool.submit(planted.peak_of_holes, returned).result() / 2**20)
    assert 16 < peaks[0] < 22
    assert peaks[1] > 28  # so the test can tell


def pytest_bench(*arguments: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "bench",
        "--cases-from",
        "tests.bench.suite.planted",
    ]
    # This process may be one of several test processes, where pytest-benchmark measures nothing.
    alone = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=alone, capture_output=True, text=True
    )


def test_smoke_run_compares_and_measures_nothing(tmp_path):
    done = pytest_bench("--out", str(tmp_path / "record.json"))
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout
    assert "planted wrong: published differs" in done.stdout or "ours differs" in done.stdout
    assert not (tmp_path / "record.json").exists()


def test_an_interrupted_measurement_leaves_its_record(tmp_path):
    path = tmp_path / "record.json"
    done = pytest_bench("--measure", "--wall", "--out", str(path))
    assert done.returncode == 2 and str(path) in done.stdout, done.stdout + done.stderr
    found = json.loads(path.read_text())
    (row,) = found["cases"]
    assert row["name"] == "planted right" and set(row["sides"]) == {"ours", "published"}
    for side in row["sides"].values():
        assert len(side["seconds"]["samples"]) == 3 and side["clock"] == "process"
        assert len(side["more"]["wall on two threads"]["samples"]) == 3
    assert found["part"] == "cpu" and found["schema"] == record.SCHEMA
    assert {"torch", "commit", "load_average"} <= set(found["machine"])
    assert "planted right" in done.stdout
