"""Hours and cost of the published trainings: measured where measured, else marked as modelled."""

from __future__ import annotations

import pytest
from fabricated_records import CPU, GPU, case, fabricate, write

from bench.case import Cost
from bench.report import modelled, training_cost
from bench.report.records import Records, load
from bench.roofline import DEVICES

ABLATION = training_cost.TRAININGS[0]
SHAPES = {"B": 2, "T": 5, "H": 360, "W": 640}


def step(name, dtype="bfloat16", flops=10**13, **shapes):
    cost = Cost(bytes=1, flops=flops, half_flops=flops)
    return case(
        name, "training step", "model", dtype=dtype, shapes=SHAPES | shapes, cost=cost,
        units=("clips", 2),
    )  # fmt: skip


def section(records, declared=()):
    rows = modelled.declared(declared)
    devices = modelled.unmeasured(records)
    prices = training_cost.merged({"H200": 2.5})
    return training_cost.section(records, rows, devices, prices)


def rows_of(text):
    cells = [
        [c.strip() for c in x.strip("|").split("|")] for x in text.splitlines() if x[:1] == "|"
    ]
    return cells[2:]


def test_steps_follow_the_presets():
    steps = {t.title: t.steps for t in training_cost.TRAININGS}
    assert steps["R50, ablation (videos alone)"] == 12 * 62_000 // 16
    assert steps["Swin-L"] == steps["R50"] > 2 * steps["R50, ablation (videos alone)"]


def test_a_measured_step_gives_hours_and_cost(tmp_path):
    made = fabricate(GPU, 1, 1, noise=1e-6, chosen=[(step("step R50 bf16"), 0.1, 100, 2)])
    text = section(load(write(tmp_path, made)))
    [ablation, joint] = rows_of(text)
    hours = 12 * 62_000 / 20 / 3600
    assert ablation[2:4] == ["NVIDIA H200", "step R50 bf16"]
    assert float(ablation[5]) == pytest.approx(hours, rel=0.01)
    assert float(ablation[7]) == pytest.approx(2.5 * hours, rel=0.01)
    assert joint[0] == "R50"
    assert "modelled" not in "".join(ablation)


def test_unmeasured_devices_are_modelled_at_the_stated_efficiency():
    text = section(Records(), [step("step R50 bf16")])
    rows = rows_of(text)
    a100 = next(row for row in rows if "A100 SXM4 40 GB, modelled" in row[2])
    assert all(cell.startswith("*") and cell.endswith("*") for cell in a100)
    assert "0.050 in half (assumed)" in text
    assert float(a100[4].strip("*")) == pytest.approx(0.05 * 2 / (1e13 / 312e12), rel=0.01)
    assert not any("V100" in row[2] for row in rows), "a V100 has no bfloat16"


def test_a_measured_efficiency_takes_the_place_of_the_assumed_one(tmp_path):
    """The floor is 1e13 / 989.5e12 = 10.1 ms; 101 ms were measured."""
    chosen = [(step("step R50 bf16"), 0.101, 100, 2)]
    text = section(
        load(write(tmp_path, fabricate(GPU, 1, 1, noise=1e-6, chosen=chosen))),
        [step("step R50 bf16")],
    )
    assert "0.10 in half (measured, on the GPUs above)" in text
    a100 = next(row for row in rows_of(text) if "A100 SXM4 40 GB, modelled" in row[2])
    assert float(a100[4].strip("*")) == pytest.approx(0.1 * 2 / (1e13 / 312e12), rel=0.01)


def test_backbones_are_told_apart_by_the_cases_name():
    names = ["step R50", "step R101", "step X101 T=5", "step Swin-L"]
    rows = modelled.declared(step(name) for name in names)
    found = [training_cost.matching(t, rows, DEVICES[-1])["name"] for t in training_cost.TRAININGS]
    assert found == [names[0], *names]


def test_half_precision_and_the_published_size_come_first():
    declared = [
        step("R50 a", dtype="float32"),
        step("R50 b", H=192, W=320),
        step("R50 c"),
        step("R50 d", T=36),
    ]
    rows = modelled.declared(declared)
    assert training_cost.matching(ABLATION, rows, DEVICES[-1])["name"] == "R50 c"
    assert training_cost.matching(ABLATION, rows, DEVICES[0])["name"] == "R50 a"


def test_a_cpu_and_missing_steps_give_no_estimate(tmp_path):
    made = fabricate(CPU, 1, 1, part="cpu")
    assert "No training step at T=5" in section(load(write(tmp_path, made)))
