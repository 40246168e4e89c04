"""The GPU benchmark and the tuner, as far as a machine without a GPU can run them."""

from __future__ import annotations

import json

import pytest
import torch

from bench import gpu, tune
from bench.case import Case, Side
from bench.msda_calls import MSDACall

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
    """Runs a part over planted cases, without ceilings and checks, which the smoke run shows."""

    def run(cases, part="ops", budget=100.0, failed=()):
        monkeypatch.setattr(gpu, "cases_of", lambda part, size: (list(cases), {}))
        monkeypatch.setattr("bench.ceilings.measure", lambda device: {})
        monkeypatch.setattr("bench.checks.run", lambda device, is_smoke: ([], list(failed)))
        return gpu.measure(CPU, part, is_smoke=True, budget=budget)

    return run


def test_smoke_run_checks_and_records(tmp_path):
    out = tmp_path / "record.json"
    assert gpu.main(["--part", "ops", "--smoke", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    extra = record["extra"]
    assert record["part"] == "ops" and extra["failed_checks"] == [] and extra["left_out"] == {}
    assert set(extra["ceilings"]) == {"l1_gather_gb_s", "l2_gather_gb_s", "float_adds_g_s"}
    checked = {name for check in extra["checks"] for name in check["relative_error"]}
    assert {"output", "grad_value", "grad_offsets", "grad_logits", "logits", "losses"} <= checked
    assert {"losses grad_features", "logits grad_params", "logits grad_references"} <= checked
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
    record = suite([planted()], failed=["float32 output: 1.0e+00"])
    assert record["cases"] == [] and record["extra"]["left_out"]


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
    assert round(call.gathered_bytes() / 1e9, 1) == 5.0
    assert round(call.added_floats() / 1e6) == 1254
    samples = call.rows * 16
    assert call.model_flops() == {"forward": samples * 286, "backward": samples * 572}
