"""The first minutes on a GPU, as far as a machine without one can run them."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
import torch

import kernels
from bench import gpu
from bench.offline.counts import memory
from bench.offline.counts.memory import COUNTERS, LAUNCHES, METRICS, compared
from bench.report.history import load
from bench.suite import first, record
from bench.suite.run import Run

CPU = torch.device("cpu")
COUNTS = {name: 100.0 * (i + 1) for i, name in enumerate(COUNTERS)}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The record of a smoke run with all checks and one operator's cases."""
    out = tmp_path_factory.mktemp("first") / "record.json"
    with pytest.MonkeyPatch.context() as patch:
        cases_of = gpu.cases_of
        drawing = lambda case: case.op == "draw masks"  # noqa: E731
        patch.setattr(
            gpu, "cases_of", lambda *args: (list(filter(drawing, cases_of(*args)[0])), {})
        )
        assert gpu.main(["--part", "first", "--smoke", "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_every_kernel_is_launched_and_checked(smoke):
    extra = smoke["extra"]
    assert extra["failed_checks"] == [] and extra["failures"] == {}
    assert len(extra["launches"]) >= 8 and all(extra["launches"].values()), extra["launches"]
    names = {row["name"] for row in extra["checks"]}
    for operator in ("deformable attention", "deterministic attention", "mask losses"):
        assert f"float32 {operator}" in names
    assert all("relative_error" in row for row in extra["checks"])
    checked = {name for row in extra["checks"] for name in row["relative_error"]}
    assert {"output", "grad_value", "grad_offsets", "grad_logits", "logits", "losses"} <= checked
    assert {"losses grad_features", "logits grad_params", "logits grad_references"} <= checked
    assert {"output in a graph", "logits in a graph"} <= checked
    assert {"deterministic repetition", "deterministic grad_value", "drawn masks"} <= checked


def test_without_a_gpu_the_counts_say_so(smoke):
    assert [row["launch"] for row in smoke["extra"]["counts"]] == [x.name for x in LAUNCHES]
    assert all("there is no GPU" in row["missing"] for row in smoke["extra"]["counts"])
    assert {case["op"] for case in smoke["cases"]} == {"draw masks"}


def test_a_kernel_that_no_check_launches_is_a_failed_check(monkeypatch):
    monkeypatch.setattr(first.checks, "checks", lambda device, is_smoke: [])
    monkeypatch.setattr(first, "kernel_names", lambda: ["deformable_attention.forward_kernel"])
    run = Run(record.new_record("first", {}, []), None, 100.0)
    first.measure(run, CPU, True, [], lambda case: None)
    assert run.extra["failed_checks"] == ["deformable_attention.forward_kernel was not launched"]


def test_stages_are_left_out_when_time_is_short():
    """Each needs its own time; what was begun before is kept."""
    now = [0.0]
    run = Run(record.new_record("first", {}, []), None, 460.0, clock=lambda: now[0])
    cases, _ = gpu.cases_of("first", "gpu")
    timed = []

    def take(case):
        timed.append(case.name)
        now[0] += 100.0 if case.group == "model" else 20.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first.checks, "checks", lambda device, is_smoke: [])
        patch.setattr(first, "kernel_names", lambda: [])
        first.measure(run, CPU, False, cases, take)
    assert 445 <= now[0] <= 460 + 60
    assert timed[0] == "msda encoder 480x768 T=10 float32 forward"
    assert any(name.startswith("training step") for name in timed[:3])
    left_out = run.extra["left_out"]
    assert set(left_out) == {case.name for case in cases} - set(timed)
    assert set(left_out.values()) == {"the time was used up"}


def test_every_case_of_the_order_exists():
    cases, unavailable = gpu.cases_of("first", "gpu")
    assert unavailable == {}
    for pattern, case in zip(first.TIMED, cases, strict=False):
        assert re.fullmatch(pattern, case.name), (pattern, case.name)
    assert not {side.name for case in cases for side in case.sides} & set(first.SLOW_SIDES)
    assert any(side.is_peer for side in cases[0].sides)


def test_predicted_and_counted_side_by_side():
    launch = LAUNCHES[1]
    rows = compared(launch, COUNTS, COUNTS | {"atomic sectors": 600.0})
    assert [row["count"] for row in rows] == list(COUNTERS)
    by_name = {row["count"]: row for row in rows}
    assert by_name["atomic sectors"]["ratio"] == 1.2 and not by_name["atomic sectors"]["agrees"]
    assert by_name["load sectors"]["agrees"]
    (row,) = compared(launch, COUNTS, "ncu is not installed")
    assert row["missing"] == "ncu is not installed" and row["predicted"] == COUNTS


def test_no_prediction_and_one_of_other_kernels(tmp_path, monkeypatch):
    path = tmp_path / "emulated" / "memory.json"
    assert "nothing is predicted for sm_90" in memory.predictions(90, path)
    store = memory.Store(path, memory.PART, memory.KEY)
    for launch in LAUNCHES:
        key = {"launch": launch.name, "capability": 90}
        store.enter(key | {"counts": COUNTS, "code": memory.kernels_digest()})
    assert memory.predictions(90, path) == {launch.name: COUNTS for launch in LAUNCHES}
    assert "sm_80" in memory.predictions(80, path)
    monkeypatch.setattr(memory, "kernels_digest", lambda: "changed since")
    assert "for sm_90 is of other kernels" in memory.predictions(90, path)
    assert load(tmp_path).records == []  # no measurements: the report passes them by


def test_counters_of_ncu():
    header = ",".join(f'"{name}"' for name in ("ID", "Kernel Name", *METRICS))
    units = ",".join('""' for _ in range(len(METRICS) + 2))
    values = ",".join(f'"{1000 + i:,}"' for i in range(len(METRICS)))
    text = f'==PROF== Connected\n{header}\n{units}\n"0","backward_kernel",{values}\n'
    found = memory.parse_ncu(text, "backward_kernel")
    assert found[METRICS[0]] == 1000.0 and len(found) == len(METRICS)
    with pytest.raises(ValueError, match="no launch of forward_kernel"):
        memory.parse_ncu(text, "forward_kernel")
    summed = memory._summed(found)
    assert summed["atomic requests"] == found[METRICS[3]] + found[METRICS[4]]


def test_counters_of_the_profiler():
    args = {name: 5 for name in METRICS}
    events = [{"name": "other_kernel", "args": args}, {"name": "forward_kernel", "args": {}}]
    with pytest.raises(ValueError, match="root only"):
        memory.of_trace(events, "forward_kernel")
    found = memory.of_trace([*events, {"name": "forward_kernel", "args": args}], "forward_kernel")
    assert set(found.values()) == {5.0}


def test_a_machine_without_counters_says_why(monkeypatch):
    """Here there is no GPU: the process that would count fails, in words."""
    monkeypatch.setattr(memory.shutil, "which", lambda name: None)
    why = memory.measure(LAUNCHES[0])
    assert why.startswith("ncu is not installed; CUPTI: ") and len(why) < 260


@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: launch.name)
def test_counted_launches_launch_their_kernel_once(launch, monkeypatch):
    monkeypatch.setattr(memory, "SIZE", {"height": 8, "width": 16, "frames": 1})
    launched = Counter()
    with kernels.use_backend("triton"), first.noted_launches(launched):
        launch.call(CPU)()
    assert launched[launch.kernel] == 1
