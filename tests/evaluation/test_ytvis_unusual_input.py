"""Input that the official evaluator stumbles over: a sensible number, or a sentence."""

from __future__ import annotations

import copy
import json
import logging
import re
import zipfile

import pytest

from seqformer.evaluation import evaluate
from tests.evaluation.ytvis_problems import annotation, problem, rectangle, result

FULL = [rectangle(2, 3)] * 3
TRUTH = problem([annotation(FULL)])


def without(entry: dict, key: str) -> dict:
    return {k: v for k, v in entry.items() if k != key}


def truth_with(**changes) -> dict:
    return problem([{**annotation(FULL), **changes}])


def test_no_results():
    stats = evaluate(TRUTH, []).stats
    assert stats["AP"] == stats["AR100"] == stats["APs"] == 0
    assert stats["APm"] == stats["APl"] == -1


def test_no_results_and_no_ground_truth():
    assert set(evaluate(problem([]), []).stats.values()) == {-1}


def test_no_classes():
    assert set(evaluate(problem([], categories=()), []).stats.values()) == {-1}


@pytest.mark.parametrize(
    "truth",
    [without(TRUTH, "annotations"), {**TRUTH, "annotations": None}],
    ids=["missing", "null"],
)
def test_no_annotations(truth, caplog):
    with caplog.at_level(logging.WARNING):
        metrics = evaluate(truth, [result(FULL)])
    assert set(metrics.stats.values()) == {-1}
    assert "has no annotations" in caplog.text


def test_missing_iscrowd_is_no_crowd():
    truth = problem([without(annotation(FULL), "iscrowd")])
    assert evaluate(truth, [result(FULL)]).stats["AP"] == pytest.approx(1)


def test_missing_areas_come_from_the_masks():
    truth = problem([without(annotation(FULL), "areas")])
    assert evaluate(truth, [result(FULL)]).to_dict() == evaluate(TRUTH, [result(FULL)]).to_dict()


@pytest.mark.parametrize("areas", [9, ["9", 9, 9], [float("nan")] * 3, None])
def test_areas_that_are_none_come_from_the_masks(areas, caplog):
    metrics = evaluate(truth_with(areas=areas), [result(FULL)])
    assert metrics.to_dict() == evaluate(TRUTH, [result(FULL)]).to_dict()
    assert areas is None or "areas that are no list of numbers" in caplog.text


@pytest.mark.parametrize("crowd", [0, False, 0.0, "0", None, [], [0, 0, 0], [0, 1, 0], [None, 0]])
def test_no_crowd_in_any_spelling(crowd):
    assert evaluate(truth_with(iscrowd=crowd), [result(FULL)]).stats["AP"] == pytest.approx(1)


@pytest.mark.parametrize("crowd", [1, True, 1.0, "1", [1, 1, 1], [None, 1, 1]])
def test_a_crowd_in_any_spelling(crowd):
    assert evaluate(truth_with(iscrowd=crowd), [result(FULL)]).stats["AP"] == -1


def test_missing_id_and_id_zero_match():
    for entry in (without(annotation(FULL), "id"), annotation(FULL, id=0)):
        assert evaluate(problem([entry]), [result(FULL)]).stats["AP"] == pytest.approx(1)


def test_repeated_ids_count_as_two_instances(caplog):
    other = [rectangle(5, 14)] * 3
    truth = problem([annotation(FULL), annotation(other)])
    with caplog.at_level(logging.WARNING):
        metrics = evaluate(truth, [result(FULL), result(other)])
    assert metrics.stats["AP"] == pytest.approx(1)
    assert metrics.per_class[1]["num_instances"] == 2
    assert "1 annotation ids that occur twice" in caplog.text


def test_an_ignore_key_has_no_effect():
    assert evaluate(truth_with(ignore=1), [result(FULL)]).stats["AP"] == pytest.approx(1)


def test_unlisted_annotations_and_results_are_left_out(caplog):
    truth = problem(
        [annotation(FULL), annotation(FULL, category_id=9), annotation(FULL, video_id=9)]
    )
    with caplog.at_level(logging.WARNING):
        metrics = evaluate(truth, [result(FULL), result(FULL, category_id=5)])
    assert metrics.stats["AP"] == pytest.approx(1)
    assert "2 annotations of unlisted" in caplog.text
    assert "[5]" in caplog.text


def test_keys_of_results_that_do_not_count_are_ignored():
    odd = result(FULL, id="x", iscrowd=1, areas=["y"], bboxes=None)
    assert evaluate(TRUTH, [odd]).stats["AP"] == pytest.approx(1)


def test_negative_and_integer_scores():
    wrong = result([rectangle(5, 14)] * 3, -3)
    assert evaluate(TRUTH, [wrong, result(FULL, -2)]).stats["AP"] == pytest.approx(1)


def test_a_result_without_masks_is_a_small_false_positive():
    truth = problem([annotation(FULL), annotation(FULL, id=2, video_id=2, areas=[20000] * 3)], 2)
    right = [result(FULL), result(FULL, video_id=2)]
    empty = result([None, [], {"size": [10, 20], "counts": ""}], 0.9)
    metrics = evaluate(truth, [empty, *right])
    assert metrics.stats["APs"] == pytest.approx(1 / 2)
    assert metrics.stats["APm"] == pytest.approx(1)
    assert metrics.stats["AP"] == pytest.approx(2 / 3)


def test_polygons_and_run_lists_in_results():
    polygon = [[3, 2, 8, 2, 8, 6, 3, 6]]
    runs = {"size": [10, 20], "counts": [32] + [4, 6] * 4 + [4, 124]}
    assert evaluate(TRUTH, [result([polygon, runs, FULL[0]])]).stats["AP"] == pytest.approx(1)


def test_results_of_other_length_and_size():
    assert evaluate(TRUTH, [result(FULL * 2)]).stats["AP"] == pytest.approx(1)
    assert evaluate(TRUTH, [result(FULL[:1])]).stats["AP"] == pytest.approx(1)
    other_size = [rectangle(2, 3, size=(20, 10))] * 3
    assert evaluate(TRUTH, [result(other_size)]).stats["AP"] == 0


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ([rectangle(2, 3, size=(20, 10))] * 3, "1 results have masks of another size .* 3 frames"),
        ([*FULL[:1], *[rectangle(1, 1, 2, 2, (5, 10))] * 2], "masks of another size .* 2 frames"),
        (FULL[:2], "1 results cover fewer frames than their video, in 1 frames"),
        (FULL * 2, "1 results cover frames that their video lacks, in 3 frames"),
    ],
)
@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
def test_frames_that_are_not_compared_are_counted_and_said(masks, words, names, caplog):
    truth = copy.deepcopy(TRUTH)
    if names:
        truth["videos"][0]["file_names"] = names
    evaluate(truth, [result(masks)])
    assert re.search(words, caplog.text) and "results, entry 0" in caplog.text


ODD_RESULTS = {
    "logits": ([result(FULL, 2.5), result(FULL, -1)], "2 results have scores outside 0 to 1"),
    "copies": ([result(FULL), result(FULL[:2]), result(FULL)], "1 results are copies .*entry 2"),
    "no masks": ([result([None, [], None])], "none of the 1 results has a mask in any frame"),
    "another edition": (
        [result(FULL), result(FULL, category_id=5), result(FULL, category_id=5)],
        r"2 results of categories .* another edition of the data set: \[5\]",
    ),
    "a video without": ([result(FULL)], r"1 of 2 videos with ground truth .*first: video 2\)"),
}


@pytest.mark.parametrize("kind", ["values", "files"])
@pytest.mark.parametrize("name", ODD_RESULTS)
def test_odd_results_are_scored_with_a_word(name, kind, caplog, tmp_path):
    results, words = ODD_RESULTS[name]
    truth = problem([annotation(FULL), annotation(FULL, id=2, video_id=2)], 2)
    if name != "a video without":
        results = [*results, result(FULL[:1] + [None] * 2, 0.1, video_id=2)]
        if name == "no masks":
            truth, results = TRUTH, results[:1]
    given = [truth, results]
    if kind == "files":
        for i, value in enumerate(given):
            given[i] = tmp_path / str(i)
            given[i].write_text(json.dumps(value))
    evaluate(*given)
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    said = [sentence for sentence in said if "fewer frames" not in sentence]
    assert len(said) == 1 and re.search(words, said[0]), said


def test_results_that_fit_are_scored_without_a_word(caplog):
    evaluate(TRUTH, [result(FULL), result([None, *FULL[1:]])])
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_submission_as_zip(tmp_path):
    (tmp_path / "gt.json").write_text(json.dumps(TRUTH))
    with zipfile.ZipFile(tmp_path / "results.zip", "w") as archive:
        archive.writestr("results.json", json.dumps([result(FULL)]))
    metrics = evaluate(tmp_path / "gt.json", tmp_path / "results.zip")
    assert metrics.stats["AP"] == pytest.approx(1)


BAD_RESULTS = {
    "an object": ({"results": []}, r"results\.json holds an object, not a list"),
    "nothing": (None, r"results\.json holds nothing, not a list"),
    "a number inside": ([3], r"results\.json, entry 0 is 3; a result is an object"),
    "unknown video": (
        [result(FULL), result(FULL, video_id=77)],
        r"results\.json, entry 1 is for video 77, which the annotation file does not list; score",
    ),
    "no score": ([without(result(FULL), "score")], r'entry 0 has no "score"'),
    "text score": ([result(FULL, "0.5")], r"entry 0: score is '0.5'; needed is a finite number"),
    "truth score": ([result(FULL, True)], r"entry 0: score is True"),
    "NaN score": ([result(FULL), result(FULL, float("nan"))], r"entry 1: score is nan"),
    "infinite score": ([result(FULL, float("inf"))], r"entry 0: score is inf"),
    "huge score": ([result(FULL, 10**400)], r"entry 0: score is 1000"),
    "no video": ([without(result(FULL), "video_id")], r'entry 0 has no "video_id"'),
    "text video": ([result(FULL, video_id="1")], r"entry 0: video_id is '1'; needed is an integer"),
    "fractional class": ([result(FULL, category_id=1.5)], r"entry 0: category_id is 1.5"),
    "no masks": ([without(result(FULL), "segmentations")], r'entry 0 needs a list "segmentations"'),
    "masks not a list": ([result(FULL[0])], r'entry 0 needs a list "segmentations"'),
    "number as mask": ([result([None, 4, None])], r"entry 0: the mask of frame 1 is 4; needed"),
    "number as counts": (
        [result(FULL), result([{"size": [10, 20], "counts": 4}])],
        r"entry 1: the mask of frame 0 has counts 4; needed is the text of a COCO RLE",
    ),
    "text as size": ([result([{"size": "ab", "counts": "04"}])], r"frame 0 has size 'ab'"),
    "wrong total": (
        [result(FULL), result([None, {"size": [10, 21], "counts": FULL[0]["counts"]}])],
        r"entry 1: the mask of frame 1 has runs that add up to 200 pixels instead of 210",
    ),
    "cut mask": (
        [result([{"size": [10, 20], "counts": FULL[0]["counts"][:-1] + "P"}])],
        r"frame 0 has counts that stop in the middle of a number",
    ),
}


@pytest.mark.parametrize("name", BAD_RESULTS)
def test_bad_results_are_refused_in_words(name, tmp_path):
    content, problem_words = BAD_RESULTS[name]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=problem_words) as caught:
        evaluate(TRUTH, path)
    assert "\n" not in str(caught.value)


BAD_TRUTH = {
    "a list": ([], r"gt\.json holds a list, not the YouTube-VIS annotation object"),
    "no videos": (without(TRUTH, "videos"), r'gt\.json needs a list "videos"'),
    "no classes": (without(TRUTH, "categories"), r'gt\.json needs a list "categories"'),
    "annotations an object": ({**TRUTH, "annotations": {}}, r'needs a list "annotations"'),
    "video without id": ({**TRUTH, "videos": [{}]}, r'videos entry 0 has no "id"'),
    "a text inside": ({**TRUTH, "annotations": ["x"]}, r"annotations entry 0 is a string"),
    "no class": (
        {**TRUTH, "annotations": [without(annotation(FULL), "category_id")]},
        r'annotations entry 0 has no "category_id"',
    ),
    "text id": (truth_with(id="a"), r"annotations entry 0: id is 'a'"),
    "crowd in words": (truth_with(iscrowd="no"), r"annotations entry 0: iscrowd is 'no'"),
    "crowd of two": (truth_with(iscrowd=2), r"annotations entry 0: iscrowd is 2; needed is 0 or 1"),
    "negative id": (
        truth_with(id=-1),
        r"annotations entry 0: id is -1; needed is an integer from 0",
    ),
    "id of 65 bits": (truth_with(id=2**64), r"annotations entry 0: id is 1.8446744073709552e"),
    "mask of another size": (
        truth_with(segmentations=[rectangle(2, 3, size=(20, 10))] * 3),
        r"entry 0: the mask of frame 0 has size \[20, 10\] but its video has \[10, 20\]",
    ),
    "no masks": (truth_with(segmentations=None), r'entry 0 needs a list "segmentations"'),
    "runs too short": (
        truth_with(segmentations=[{"size": [10, 20], "counts": [100, 99]}]),
        r"annotations entry 0: the mask of frame 0 has runs that add up to 199 pixels",
    ),
    "negative run": (
        truth_with(segmentations=[{"size": [10, 20], "counts": [-5, 205]}]),
        r"annotations entry 0: the mask of frame 0 has a run length outside 0",
    ),
    "polygon without canvas": (
        {**truth_with(segmentations=[[[0, 0, 4, 0, 4, 4]]]), "videos": [{"id": 1}]},
        r"frame 0 is made of polygons, but its video has no height and width",
    ),
}


@pytest.mark.parametrize("name", BAD_TRUTH)
def test_bad_annotations_are_refused_in_words(name, tmp_path):
    content, problem_words = BAD_TRUTH[name]
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=problem_words) as caught:
        evaluate(path, [result(FULL)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "[", '[{"video_id": 1', "\xff", "[" * 100_000],
    ids=["empty", "[", "cut", "ff", "deep"],
)
def test_what_is_no_json_is_refused_in_words(text, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="latin-1")
    for files in ((TRUTH, path), (path, [])):
        with pytest.raises(ValueError, match=r"broken\.json is not complete JSON"):
            evaluate(*files)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"results file .*none\.json does not exist"):
        evaluate(TRUTH, tmp_path / "none.json")


def test_a_zip_without_results_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "results.zip", "w") as archive:
        archive.writestr("folder/results.json", "[]")
    with pytest.raises(ValueError, match=r"results\.zip .*no zip with a results\.json"):
        evaluate(TRUTH, tmp_path / "results.zip")
