"""The GPU benchmark and the tuner, as far as a machine without a GPU can run them."""

from __future__ import annotations

import json

import pytest
import torch

from bench import gpu, tune
from bench.suite import checks, record
from bench.suite.checks import Check
from bench.suite.msda_calls import MSDACall
from bench.suite.run import Run
from bench.suite.schema import Case, Side

CPU = torch.device("cpu")


def number(value, error=None):
    """A side's build whose call gives a number, or raises."""

    def build(device):
        def call():
            if error is not None:
                raise error
            return torch.full((3,), value)

        return call

    return build


def planted(name="planted", op="add", ours=1.0, published=1.0, peer=None, error=None):
    sides = [
        Side(name="ours", build=number(ours)),
        Side(name="published", build=number(published, error)),
    ]
    if peer is not None:
        sides.append(Side(name="peer", build=number(peer), is_peer=True))
    return Case(name=name, op=op, group="kernels", sides=tuple(sides))


@pytest.fixture
def suite(monkeypatch):
    """Runs a part over planted cases, ceilings and checks; the smoke run shows the real ones."""

    def run(cases, part="ops", budget=100.0, checked=(), ceilings=(), path=None, device=CPU):
        made = [Check(f"float32 {name}", "float32", call) for name, call in checked]
        monkeypatch.setattr(gpu, "cases_of", lambda part, size: (list(cases), {}))
        monkeypatch.setattr("bench.suite.ceilings.measurements", lambda device: dict(ceilings))
        monkeypatch.setattr("bench.suite.checks.checks", lambda device, is_smoke: made)
        new = record.new_record(part, {"device": "planted", "kind": "cpu", "commit": None}, [])
        return gpu.measure(Run(new, path, budget), device, is_smoke=True)

    return run


def raising(error):
    """A call that does."""

    def call():
        raise error

    return call


def test_smoke_run_checks_and_records(tmp_path, monkeypatch):
    all_checks = checks.checks  # test_first.py runs all of them
    monkeypatch.setattr(checks, "checks", lambda *args: all_checks(*args)[:1])
    out = tmp_path / "record.json"
    assert gpu.main(["--part", "ops", "--smoke", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    extra = record["extra"]
    assert record["part"] == "ops" and extra["failed_checks"] == [] and extra["left_out"] == {}
    assert extra["failures"] == {}
    assert set(extra["ceilings"]) == {"l1_gather_gb_s", "l2_gather_gb_s", "float_adds_g_s"}
    (checked,) = extra["checks"]
    assert set(checked["relative_error"]) == {"output", "grad_value", "grad_offsets", "grad_logits"}
    ops = {case["op"] for case in record["cases"]}
    assert {"msda encoder", "msda decoder", "mask head", "mask losses", "draw masks"} <= ops
    for case in record["cases"]:
        for side in case["sides"].values():
            assert side["seconds"]["median"] > 0 and side["more"]["operators"] > 0
        if case["op"] == "msda encoder":
            assert {"ours", "published", "all frames"} <= set(case["sides"])
        if case["op"] == "msda encoder" and case["direction"] == "forward":
            assert case["sides"]["ours"]["more"]["fraction_of_l1_gather"] > 0


def test_a_side_that_does_other_work_is_not_timed(suite):
    record = suite([planted("wrong", published=2.0), planted("right")])
    assert [case["name"] for case in record["cases"]] == ["right"]
    assert "wrong" in record["extra"]["failed_checks"][0]


def test_no_memory_for_a_side_is_a_row(suite):
    record = suite([planted(error=torch.OutOfMemoryError("no"))])
    (case,) = record["cases"]
    assert set(case["sides"]) == {"ours"} and case["ratios"] == {}
    assert case["left_out"] == {"published": "out of memory"}
    assert record["extra"]["failed_checks"] == []


def test_a_peer_that_fails_does_not_end_the_run(suite):
    record = suite([planted("first", error=RuntimeError("other\nversion")), planted("second")])
    first, second = record["cases"]
    assert first["left_out"] == {"published": "RuntimeError: other"}
    assert set(second["sides"]) == {"ours", "published"}


def test_our_own_failure_is_a_failed_check(suite):
    case = planted()
    broken = Side(name="ours", build=number(1.0, RuntimeError("broken")))
    case = Case(name="planted", op="add", group="kernels", sides=(broken, case.sides[1]))
    record = suite([case])
    assert record["cases"] == [] and "broken" in record["extra"]["failed_checks"][0]


def test_an_interruption_leaves_what_was_measured(suite):
    cases = [planted("first"), planted("second", error=KeyboardInterrupt()), planted("third")]
    record = suite(cases)
    assert [case["name"] for case in record["cases"]] == ["first"]
    assert set(record["extra"]["left_out"]) == {"second", "third"}


def test_cases_beyond_the_budget_are_listed(suite):
    record = suite([planted("first"), planted("second")], budget=-1.0)
    assert record["cases"] == [] and set(record["extra"]["left_out"]) == {"first", "second"}


def test_nothing_is_timed_after_a_failed_check(suite):
    record = suite([planted()], checked=[("kernel", lambda: {"output": 1.0, "grad": 1e-7})])
    assert record["cases"] == [] and record["extra"]["left_out"]
    assert record["extra"]["failed_checks"] == ["float32 output: 1.0e+00"]


def test_a_check_that_raises_is_a_row_and_a_failed_check(suite):
    checked = [
        ("broken", raising(RuntimeError("illegal\naccess"))),
        ("sound", lambda: {"output": 1e-6}),
    ]
    extra = suite([planted()], checked=checked)["extra"]
    assert extra["checks"] == [
        {"name": "float32 broken", "dtype": "float32", "error": "RuntimeError: illegal"},
        {"name": "float32 sound", "dtype": "float32", "relative_error": {"output": 1e-6}},
    ]
    assert extra["failed_checks"] == ["float32 broken: RuntimeError: illegal"]


def test_a_check_that_was_not_done_is_no_success(suite):
    extra = suite([planted()], checked=[("kernel", lambda: {"output": 0.0})], budget=-1.0)["extra"]
    assert extra["failed_checks"] == ["float32 kernel was not done: the time was used up"]


def test_a_ceiling_that_raises_costs_nothing_else(suite):
    ceilings = {"l1": raising(RuntimeError("no")), "l2": lambda: 7.0}
    record = suite([planted()], ceilings=ceilings)
    assert record["extra"]["ceilings"] == {"l2": 7.0}
    assert record["extra"]["failures"] == {"ceiling l1": "RuntimeError: no"}
    assert [case["name"] for case in record["cases"]] == ["planted"]


@pytest.mark.parametrize("stage", ["ceiling", "check", "case"])
def test_the_record_is_on_disk_before_and_after_every_stage(stage, suite, tmp_path):
    """Whatever ends the process in a stage, what was before is there."""
    path, seen = tmp_path / "record.json", []

    def look():
        seen.append(json.loads(path.read_text()))
        return 1.0

    def build(device):
        return lambda: torch.full((3,), look())

    looking = [Side(name="ours", build=build)]
    cases = [
        planted("first"),
        Case(name="looks", op="add", group="kernels", sides=tuple(looking)),
    ]
    given = {
        "ceiling": {"ceilings": {"first": lambda: 3.0, "looks": look}},
        "check": {"checked": [("first", dict), ("looks", lambda: {"a": 0.0 * look()})]},
        "case": {},
    }[stage]
    suite(cases if stage == "case" else [planted()], path=path, **given)
    before = {
        "ceiling": lambda found: found["extra"]["ceilings"] == {"first": 3.0},
        "check": lambda found: [c["name"] for c in found["extra"]["checks"]] == ["float32 first"],
        "case": lambda found: [c["name"] for c in found["cases"]] == ["first"],
    }[stage]
    assert seen and before(seen[0])
    assert len(json.loads(path.read_text())["cases"]) == (2 if stage == "case" else 1)
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_an_interruption_in_a_ceiling_keeps_the_record(suite):
    ceilings = {"a": lambda: 1.0, "b": raising(KeyboardInterrupt()), "c": lambda: 2.0}
    record = suite([planted()], ceilings=ceilings)
    assert record["extra"]["ceilings"] == {"a": 1.0} and record["cases"] == []
    assert record["extra"]["left_out"]["ceiling c"] == "the run was interrupted"
    assert record["extra"]["left_out"]["planted"]


def test_a_gpu_that_refuses_everything_after_a_fault_costs_nothing_measured(monkeypatch, capsys):
    """An illegal access: from then on each call fails, and freeing memory too."""
    refuses = []

    def empty_cache():
        if refuses:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    left_out = {}
    gpu_device = torch.device("cuda", 0)
    sound, faulty = Side(name="sound", build=number(1.0)), Side(name="faulty", build=number(1.0))
    assert gpu._attempt(lambda: 5, sound, left_out, gpu_device) == 5 and left_out == {}
    refuses.append(True)
    gpu._attempt(lambda: 5, faulty, left_out, gpu_device)
    assert left_out == {
        "faulty": "RuntimeError: CUDA error: an illegal memory access was encountered"
    }


def test_an_error_of_the_comparison_itself_is_an_entry(suite, monkeypatch):
    monkeypatch.setattr(gpu, "check_agreement", lambda case, outputs: 1 / 0)
    record = suite([planted("first"), planted("second")])
    assert record["cases"] == [] and len(record["extra"]["failures"]) == 2
    assert record["extra"]["failed_checks"][0].startswith("first: ZeroDivisionError")


def test_a_disk_that_refuses_does_not_end_the_run(suite, tmp_path, monkeypatch, capsys):
    def refuse(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr("bench.suite.record.write", refuse)
    assert len(suite([planted()], path=tmp_path / "record.json")["cases"]) == 1
    assert "the record is not on disk: no space left" in capsys.readouterr().err


def test_peers_run_where_they_are_asked_for(suite):
    cases = [planted(peer=1.0)]
    for part, is_there in (("ops", False), ("peers", True)):
        (case,) = suite(cases, part)["cases"]
        assert ("peer" in case["sides"]) == is_there


def test_operators_take_turns():
    cases, unavailable = gpu.cases_of("ops", "gpu")
    first = [case.op for case in cases[:4]]
    assert len(set(first)) == 4 and unavailable == {}
    assert all(case.group == "kernels" for case in cases)
    peers, _ = gpu.cases_of("peers", "gpu")
    assert {case.op for case in peers} == {"msda encoder", "msda decoder"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path, capsys):
    out = tmp_path / "record.json"
    assert gpu.main(["--part", "ops", "--out", str(out)]) == 2
    assert tune.main([]) == 2
    assert not out.exists() and "no GPU found" in capsys.readouterr().err


def test_a_smoke_run_stays_out_of_the_results(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--part", "ops", "--smoke"])
    assert "--out" in capsys.readouterr().err


def test_sizes_bytes_and_flops_of_the_published_encoder():
    """The table of the roofline: 480x768, ten frames."""
    call = MSDACall(height=480, width=768, frames=10)
    assert (call.tokens, call.rows) == (7656, 612_480)
    assert round(call.model_bytes()["forward"] / 1e6) == 392 - 118  # 274: value, samples, output
    samples = call.rows * 16
    assert call.model_flops() == {"forward": samples * 286, "backward": samples * 572}
