"""What the metric promises, on problems small enough to work out."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqformer.evaluation import evaluate, format_table
from seqformer.evaluation.matching import match
from tests.evaluation.ytvis_problems import annotation, problem, random_problems, rectangle, result

FULL = [rectangle(2, 3)] * 3


@settings(deadline=None, max_examples=30)
@given(random_problems(), st.randoms(use_true_random=False))
def test_the_order_of_videos_and_of_classes_does_not_matter(case, random):
    truth, results = case
    shuffled = copy.deepcopy(truth)
    random.shuffle(shuffled["videos"])
    random.shuffle(shuffled["categories"])
    # Results of different videos may change places; within a video the file decides between ties.
    order = sorted(range(len(results)), key=lambda i: (-results[i]["video_id"], i))
    assert (
        evaluate(truth, results).to_dict()
        == evaluate(shuffled, [results[i] for i in order]).to_dict()
    )


@settings(deadline=None, max_examples=30)
@given(random_problems())
def test_numbers_are_fractions_or_minus_one(case):
    metrics = evaluate(*case)
    for value in metrics.stats.values():
        assert value == -1 or 0 <= value <= 1
    assert metrics.stats["AR1"] <= metrics.stats["AR10"] <= metrics.stats["AR100"]
    assert metrics.stats["AP50"] >= metrics.stats["AP75"]


@settings(deadline=None, max_examples=30)
@given(random_problems())
def test_perfect_results_are_perfect(case):
    truth, _ = case
    truth["annotations"] = [
        a for a in truth["annotations"] if not a["iscrowd"] and any(a["segmentations"])
    ]
    results = [
        result(a["segmentations"], video_id=a["video_id"], category_id=a["category_id"])
        for a in truth["annotations"]
    ]
    stats = evaluate(truth, results).stats
    expected = pytest.approx(1 if results else -1)
    assert stats["AP"] == expected
    assert stats["AR100"] == expected


@settings(deadline=None, max_examples=30)
@given(random_problems())
def test_input_is_left_as_it_was(case):
    before = copy.deepcopy(case)
    evaluate(*case)
    assert case == before


def test_equal_ious_go_to_the_last_instance():
    """The first result takes the second of two equal instances, the second result the first."""
    actual = match(
        np.array([[0.6, 0.6], [0.0, 0.6]]), np.full(2, 9.0), np.full(2, 9.0), np.zeros(2, bool)
    )
    assert actual.is_matched[0, 0].tolist() == [True, False]


def test_a_counting_instance_comes_before_a_larger_iou_with_an_ignored_one():
    actual = match(
        np.array([[0.9, 0.6]]), np.array([9.0]), np.full(2, 9.0), np.array([True, False])
    )
    assert actual.is_matched[0, :3, 0].all()
    assert not actual.is_ignored[0, :3, 0].any()
    assert actual.is_ignored[0, 3:9, 0].all()  # only the crowd is left above 0.60


def test_crowds_match_any_number_of_times_and_forgive():
    truth = problem([annotation(FULL), annotation([rectangle(5, 14)] * 3, id=2, iscrowd=1)])
    crowd = [result([rectangle(5, 14)] * 3, 0.9)] * 5
    assert evaluate(truth, [*crowd, result(FULL, 0.1)]).stats["AP"] == pytest.approx(1)


def test_an_instance_ignored_for_its_area_forgives_once():
    large, small = 300.0**2, 20.0
    actual = match(
        np.full((2, 1), 0.9), np.array([small, small]), np.array([large]), np.zeros(1, bool)
    )
    in_small = 1
    assert actual.num_instances.tolist() == [1, 0, 0, 1]
    assert actual.is_matched[in_small, 0].tolist() == [True, False]
    assert actual.is_ignored[in_small, 0].tolist() == [True, False]


def test_a_result_without_partner_is_ignored_outside_its_area_range():
    actual = match(np.zeros((1, 0)), np.array([20.0]), np.zeros(0), np.zeros(0, bool))
    assert actual.is_ignored[:, 0, 0].tolist() == [False, False, True, True]


def test_an_area_on_the_border_belongs_to_both_ranges():
    metrics = evaluate(problem([annotation(FULL, areas=[128**2] * 3)]), [result(FULL)])
    assert metrics.stats["APs"] == metrics.stats["APm"] == pytest.approx(1)
    assert metrics.stats["APl"] == -1


def test_recall_of_seven_tenths_misses_its_level():
    """parity: level 70 of numpy.linspace is one unit above 0.7."""
    truth = problem([annotation(FULL, id=i + 1, video_id=i + 1) for i in range(10)], 10)
    results = [result(FULL, video_id=i + 1) for i in range(7)]
    assert evaluate(truth, results).precision[0, :, 0, 0, 2].tolist() == pytest.approx(
        [1] * 70 + [0] * 31
    )


def test_only_the_best_hundred_of_a_video_and_class_count():
    truth = problem([annotation(FULL)])
    wrong = [result([rectangle(6, 12)] * 3, 0.9)] * 100
    assert evaluate(truth, [*wrong, result(FULL, 0.1)]).stats["AR100"] == 0
    assert evaluate(truth, [*wrong[1:], result(FULL, 0.1)]).stats["AR100"] == 1


def test_ties_within_a_video_keep_the_order_of_the_file():
    truth = problem([annotation(FULL)])
    right, wrong = result(FULL), result([rectangle(6, 12)] * 3)
    assert evaluate(truth, [right, wrong]).stats["AR1"] == 1
    assert evaluate(truth, [wrong, right]).stats["AR1"] == 0


def test_other_classes_are_never_compared():
    truth = problem([annotation(FULL)], categories=(1, 2))
    metrics = evaluate(truth, [result(FULL, category_id=2)])
    assert metrics.stats["AR100"] == 0
    assert metrics.per_class[2]["AP"] == -1
    assert metrics.per_class[1]["num_instances"] == 1


def test_table_and_dictionary():
    truth = problem([annotation(FULL)], categories=(1, 7))
    metrics = evaluate(truth, [result(FULL)])
    lines = format_table(metrics).splitlines()
    assert lines[0].split() == ["instances", *metrics.stats]
    assert lines[1].split()[:4] == ["all", "classes", "1", "100.00"]
    assert lines[-1].split()[:4] == ["class", "7", "0", "-"]
    assert len({len(line) for line in lines}) == 1
    content = metrics.to_dict()
    assert {name: content[name] for name in metrics.stats} == metrics.stats
    assert set(content["per_class"]) == {"1", "7"}
    assert content["per_class"]["1"]["AP"] == pytest.approx(1)


def test_scoring_does_not_import_torch():
    code = (
        "import sys, seqformer.evaluation\n"
        "slow = {'torch', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
