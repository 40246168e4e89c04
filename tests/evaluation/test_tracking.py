"""HOTA, IDF1 and identity switches: TrackEval's numbers, and what must hold of any."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from seqformer.evaluation.assignment import assign
from seqformer.evaluation.c_scorer import address, scorer
from seqformer.evaluation.tracking import evaluate_tracking
from tests.evaluation.ytvis_problems import (
    annotation,
    problem,
    random_problems,
    rectangle,
    result,
)

CASES = sorted((Path(__file__).parents[1] / "golden" / "tracking").glob("*.json"))
CURVES = ("HOTA", "DetA", "AssA", "DetRe", "DetPr", "AssRe", "AssPr", "LocA")


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.stem)
def golden(request):
    content = json.loads(request.param.read_text())
    return evaluate_tracking(content["truth"], content["results"]), content["expected"]


def assert_same(numbers, expected):
    for name in CURVES:
        assert numbers[name] == pytest.approx(np.mean(expected[name]), rel=0, abs=1e-6), name
    for name in ("IDF1", "IDP", "IDR", "IDSW"):
        assert numbers[name] == pytest.approx(expected[name], rel=0, abs=1e-6), name


def test_there_are_three_cases():
    assert len(CASES) == 3


def test_every_class_is_as_in_trackeval(golden):
    metrics, expected = golden
    assert {row["name"] for row in metrics.per_class.values()} == {
        name for name in expected if not name.startswith("cls_comb")
    }
    for row in metrics.per_class.values():
        assert_same(row, expected[row["name"]])


def test_both_averages_are_as_in_trackeval(golden):
    metrics, expected = golden
    assert_same(metrics.stats, expected["cls_comb_cls_av"])
    assert_same(metrics.over_masks, expected["cls_comb_det_av"])
    for name in CURVES:
        official = expected["cls_comb_cls_av"][name]
        assert metrics.curves[name].tolist() == pytest.approx(official, rel=0, abs=1e-6)


def test_the_sums_of_weighted_videos_give_the_same_numbers(golden):
    metrics, _ = golden
    everything = np.ones((1, len(metrics.sums.video_ids)), np.int64)
    again = metrics.sums.mean_numbers(everything)
    assert {name: float(of[0]) for name, of in again.items()} == pytest.approx(metrics.stats)
    for k, row in enumerate(metrics.per_class.values()):
        for name, of in metrics.sums.class_numbers(k, everything).items():
            assert of[0] == pytest.approx(row[name])


def test_a_perfect_result_and_one_switch():
    masks = [rectangle(0, 0), rectangle(0, 2), rectangle(1, 4), rectangle(1, 6)]
    truth = problem([annotation(masks)])
    perfect = evaluate_tracking(truth, [result(masks)]).stats
    assert {name for name, value in perfect.items() if value == 1} == {
        *CURVES,
        "IDF1",
        "IDP",
        "IDR",
    }
    assert perfect["IDSW"] == 0
    none = [None, None]
    halves = [result([*masks[:2], *none]), result([*none, *masks[2:]])]
    switched = evaluate_tracking(truth, halves).stats
    assert switched["DetA"] == switched["LocA"] == 1
    assert switched["AssA"] == pytest.approx(0.5) and switched["IDF1"] == pytest.approx(0.5)
    assert switched["HOTA"] == pytest.approx(np.sqrt(0.5)) and switched["IDSW"] == 1


def test_frames_that_only_one_side_has_are_missed_or_left_out():
    masks = [rectangle(0, 0)] * 3
    truth = problem([annotation(masks)])
    truth["videos"][0]["file_names"] = [f"{t}.jpg" for t in range(3)]
    short = evaluate_tracking(truth, [result(masks[:2])]).stats
    assert short["DetRe"] == pytest.approx(2 / 3) and short["DetPr"] == 1
    assert evaluate_tracking(truth, [result(masks * 2)]).stats["DetPr"] == 1
    other_size = [rectangle(0, 0, size=(10, 10))] * 3
    assert evaluate_tracking(truth, [result(other_size)]).stats["DetA"] == 0


@settings(max_examples=30, deadline=None)
@given(random_problems())
def test_numbers_are_shares_and_the_order_of_videos_does_not_matter(case):
    truth, results = case
    metrics = evaluate_tracking(truth, results)
    for row in (metrics.stats, metrics.over_masks, *metrics.per_class.values()):
        assert all(0 <= row[name] <= 1 for name in (*CURVES, "IDF1", "IDP", "IDR"))
    order = sorted(range(len(results)), key=lambda i: -results[i]["video_id"])
    again = evaluate_tracking(truth, [results[i] for i in order])
    assert again.stats == pytest.approx(metrics.stats)


@pytest.fixture
def in_numpy(monkeypatch):
    """Score without the C code."""

    def evaluate(*files):
        with monkeypatch.context() as patch:
            patch.setenv("SEQFORMER_KERNELS_NATIVE", "0")
            return evaluate_tracking(*files)

    return evaluate


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_without_the_c_code_the_sums_are_the_same(in_numpy, case):
    content = json.loads(case.read_text())
    files = content["truth"], content["results"]
    in_c, plain = evaluate_tracking(*files).sums, in_numpy(*files).sums
    for name in ("videos", "classes", "identity"):
        assert getattr(in_c, name).tolist() == getattr(plain, name).tolist()
    np.testing.assert_allclose(in_c.hota, plain.hota, rtol=1e-12, atol=0)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=random_problems())
def test_in_c_and_in_numpy_the_sums_are_the_same(in_numpy, case):
    in_c, plain = evaluate_tracking(*case).sums, in_numpy(*case).sums
    assert in_c.identity.tolist() == plain.identity.tolist()
    np.testing.assert_allclose(in_c.hota, plain.hota, rtol=1e-12, atol=0)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda n: st.integers(1, 6).flatmap(
            lambda m: st.lists(
                st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=m, max_size=m),
                min_size=n,
                max_size=n,
            )
        )
    )
)
def test_ties_are_assigned_as_by_scipy(gain):
    table = np.array(gain)
    rows, columns = linear_sum_assignment(-table)
    for got, official in zip(assign(table), (rows, columns), strict=True):
        assert got.tolist() == official.tolist()
    library = scorer()
    assert library is not None
    of_rows = np.empty(len(table), np.int64)
    assert library.assign_rows(*table.shape, address(table), address(of_rows)) == 0
    expected = np.full(len(table), -1)
    expected[rows] = columns
    assert of_rows.tolist() == expected.tolist()
