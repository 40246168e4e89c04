"""What stands behind the AP: kinds of error, slices, intervals, comparisons."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from seqformer.evaluation import analyse, compare, evaluate
from seqformer.evaluation.analysis_table import format_comparison
from seqformer.evaluation.error_types import ERROR_TYPES, FALSE_POSITIVE_TYPES, _ap
from seqformer.evaluation.track_iou import build_tracks, frame_intersections, frame_overlaps
from tests.evaluation.ytvis_problems import (
    annotation,
    problem,
    random_problems,
    rectangle,
    result,
)

CASES = sorted((Path(__file__).parents[1] / "golden" / "ytvis_eval").iterdir())
A, B = rectangle(1, 1), rectangle(6, 12)
NEAR_A = rectangle(2, 3)  # IoU 9 / 31 with A
FEW = {"resamples": 20}


def load(case: Path, name: str):
    plain = case / name
    return json.loads(
        plain.read_bytes()
        if plain.is_file()
        else gzip.decompress((case / f"{name}.gz").read_bytes())
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_official_numbers_come_out_of_the_tallies(case):
    truth, results = load(case, "gt.json"), load(case, "results.json")
    expected = json.loads((case / "expected.json").read_text())["stats_vector"]
    analysis = analyse(truth, results, **FEW)
    got = [analysis.stats[name].value for name in ("AP", "AP50", "AP75", "AR100")]
    got += [row.stats["AP"] for row in analysis.by_area[1:]]
    assert got == pytest.approx([expected[i] for i in (0, 1, 2, 8, 3, 4, 5)], rel=0, abs=1e-12)
    assert analysis.errors.ap == pytest.approx(expected[1], rel=0, abs=1e-12)
    official = evaluate(truth, results).per_class
    for category_id, interval in analysis.per_class.items():
        assert interval.value == pytest.approx(official[category_id]["AP"], rel=0, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(random_problems(), st.data())
def test_a_weighting_scores_like_the_same_videos_repeated(case, data):
    truth, results = case
    for i, entry in enumerate(results):
        entry["score"] = 1 - i / 100  # of equal scores, the order of the videos would decide
    video_ids = [video["id"] for video in truth["videos"]]
    counts = data.draw(
        st.lists(st.integers(0, 3), min_size=len(video_ids), max_size=len(video_ids))
    )
    repeated = {**truth, "videos": [], "annotations": []}
    repeated_results = []
    for video_id, count in zip(video_ids, counts, strict=True):
        for copy_number in range(count):
            new_id = {"video_id": video_id + 100 * copy_number}
            repeated["videos"].append({**truth["videos"][video_id - 1], "id": new_id["video_id"]})
            of_video = [a for a in truth["annotations"] if a["video_id"] == video_id]
            repeated["annotations"] += [{**a, **new_id} for a in of_video]
            repeated_results += [{**r, **new_id} for r in results if r["video_id"] == video_id]
    accumulators = analyse(truth, results, **FEW).accumulators
    official = evaluate(repeated, repeated_results).per_class
    for accumulator, row in zip(accumulators, official.values(), strict=True):
        ap = accumulator.average_precision(np.array([counts]))
        assert (-1 if np.isnan(ap).all() else ap.mean()) == pytest.approx(row["AP"], abs=1e-12)
        recall = accumulator.recall(np.array([counts]))
        expected = row["AR100"]
        assert (-1 if np.isnan(recall).all() else recall.mean()) == pytest.approx(expected)


ERRORS = {
    "true": ([A] * 4, 1, "true", 0),
    "duplicate": ([A] * 4, 1, "duplicate", 0),
    "class": ([A] * 4, 2, "class", 0),
    "mask": ([NEAR_A] * 4, 1, "mask", 0),
    "switch": ([A, A, B, B], 1, "switch", 0),
    "switch and fragment": ([A, B, B, None], 1, "switch", 0),
    "fragment": ([A, None, None, None], 1, "fragment", 0),
    "both": ([NEAR_A] * 4, 2, "both", 0),
    "background": ([rectangle(1, 14, 2, 2)] * 4, 1, "background", None),
    "nothing": ([None] * 4, 1, "background", None),
}


@pytest.mark.parametrize("name", ERRORS)
def test_every_kind_of_error(name):
    """Object 0 of class 1 stays at A, object 1 of class 3 stays at B."""
    track, category_id, kind, about = ERRORS[name]
    truth = problem(
        [annotation([A] * 4), annotation([B] * 4, id=2, category_id=3)], categories=(1, 2, 3)
    )
    results = [result(track, 0.4, category_id=category_id)]
    if kind == "duplicate":
        results.insert(0, result([A] * 4, 0.9))
    analysis = analyse(truth, results, **FEW)
    outcome = analysis.videos[0].errors.results[-1]
    assert (outcome.kind, outcome.instance) == (kind, about)
    expected = {k: int(k == kind) for k in FALSE_POSITIVE_TYPES}
    is_covered = kind in ("true", "duplicate", "class", "mask", "switch", "fragment")
    assert analysis.errors.counts == {**expected, "missed": 1 if is_covered else 2}
    if kind in ("class", "mask", "switch", "fragment"):
        assert analysis.errors.costs[kind] == pytest.approx(0.5)
        assert analysis.errors.ap == 0
    if kind == "duplicate":
        assert analysis.errors.costs[kind] == 0  # it comes after full recall of its class


def test_costs_worked_by_hand():
    """One class, two instances; a better false positive halves the precision of the only hit."""
    truth = problem([annotation([A] * 3), annotation([B] * 3, id=2)])
    blank = rectangle(1, 14, 2, 2)
    actual = analyse(truth, [result([blank] * 3, 0.9), result([A] * 3, 0.5)], **FEW).errors
    assert actual.ap == pytest.approx(0.5 * 51 / 101)
    assert actual.costs["background"] == pytest.approx(0.5 * 51 / 101)
    assert actual.costs["missed"] == pytest.approx(0.5 - 0.5 * 51 / 101)
    assert actual.cost_of_all_false == actual.costs["background"]
    assert actual.cost_of_all_missing == actual.costs["missed"]


def test_a_stricter_threshold_turns_hits_into_poor_masks():
    truth = problem([annotation([A] * 2)])
    shifted = [rectangle(1, 2)] * 2  # IoU 16 / 24
    assert analyse(truth, [result(shifted)], **FEW).errors.counts["mask"] == 0
    strict = analyse(truth, [result(shifted)], iou_threshold=0.75, **FEW)
    assert strict.errors.counts["mask"] == 1
    assert strict.errors.costs["mask"] == pytest.approx(1)


def test_crowds_are_neither_missed_nor_confused_with():
    truth = problem([annotation([A] * 2, iscrowd=1)], categories=(1, 2))
    results = [result([A] * 2), result([A] * 2, category_id=2)]
    analysis = analyse(truth, results, **FEW)
    assert [o.kind for o in analysis.videos[0].errors.results] == ["ignored", "background"]
    assert analysis.errors.counts["missed"] == 0 and analysis.errors.ap == -1


@settings(deadline=None, max_examples=40)
@given(random_problems(), st.sampled_from([0.5, 0.75]))
def test_without_any_error_the_ap_is_one(case, threshold):
    analysis = analyse(*case, iou_threshold=threshold, **FEW)
    official = evaluate(*case).stats["AP50" if threshold == 0.5 else "AP75"]
    assert analysis.errors.ap == pytest.approx(official, abs=1e-12)
    everything = _ap([video.errors for video in analysis.videos], frozenset(ERROR_TYPES))
    assert everything == pytest.approx(-1 if official == -1 else 1)
    num_wrong = sum(
        o.kind not in ("true", "ignored") for v in analysis.videos for o in v.errors.results
    )
    assert sum(analysis.errors.counts[kind] for kind in FALSE_POSITIVE_TYPES) == num_wrong


@settings(deadline=None, max_examples=30)
@given(random_problems(), st.sampled_from([0.3, 0.6]))
def test_outcomes_above_a_score_do_not_depend_on_results_below(case, score):
    truth, results = case
    whole = {v.video_id: v.errors for v in analyse(truth, results, **FEW).videos}
    kept = [r for r in results if r["score"] >= score]
    for video in analyse(truth, kept, **FEW).videos:
        complete = whole[video.video_id]
        assert video.errors.results == complete.results[: len(video.errors.results)]
        for cut, full in zip(video.errors.instances, complete.instances, strict=True):
            still_there = full.found_score is not None and full.found_score >= score
            assert cut.found_score == (full.found_score if still_there else None)


@settings(deadline=None, max_examples=30)
@given(random_problems())
def test_slices_score_like_files_of_their_videos(case):
    truth, results = case
    for video in truth["videos"]:  # videos of 1, 2, 3, 4 frames
        for entry in (*truth["annotations"], *results):
            if entry["video_id"] == video["id"]:
                entry["segmentations"] = (entry["segmentations"] * 2)[: video["id"]]
    for entry in truth["annotations"]:
        entry["areas"] = [s and int(coco_mask.area(s)) for s in entry["segmentations"]]
    analysis = analyse(truth, results, length_edges=[1, 3], **FEW)
    assert [row.name for row in analysis.by_length][:2] == ["1 frame", "2 to 3 frames"]
    for row, ids in zip(analysis.by_length, [{1}, {2, 3}, {4}], strict=True):
        part = copy.deepcopy(truth)
        part["videos"] = [v for v in truth["videos"] if v["id"] in ids]
        part["annotations"] = [a for a in truth["annotations"] if a["video_id"] in ids]
        official = evaluate(part, [r for r in results if r["video_id"] in ids]).stats
        assert row.stats == pytest.approx({name: official[name] for name in row.stats}, abs=1e-12)
    for video in analysis.videos:
        part = {**truth, "videos": [truth["videos"][video.video_id - 1]]}
        part["annotations"] = [a for a in truth["annotations"] if a["video_id"] == video.video_id]
        own = [r for r in results if r["video_id"] == video.video_id]
        assert video.stats["AP"] == pytest.approx(evaluate(part, own).stats["AP"], abs=1e-12)


def test_sizes_are_shares_of_the_frame():
    """Frames have 200 pixels: 1 of them is 0.5 %, 20 are 10 %."""
    small = rectangle(0, 0, 1, 1)
    truth = problem([annotation([small] * 2), annotation([B] * 2, id=2)])
    rows = analyse(truth, [result([small] * 2)], **FEW).by_size
    assert [row.num_instances for row in rows] == [1, 0, 1, 0]
    assert [row.stats["AP"] for row in rows] == pytest.approx([1, -1, 0, -1])


def test_groups_of_equal_lengths_are_joined():
    truth = problem([annotation([A] * 8, id=i, video_id=i) for i in (1, 2, 3)], num_videos=3)
    assert [row.name for row in analyse(truth, [], **FEW).by_length] == ["1 to 8 frames"]


def many_videos(num_videos: int, hit_rate: float, seed: int) -> tuple[dict, list]:
    rng = np.random.default_rng(seed)
    truth = problem(
        [annotation([A], id=i, video_id=i) for i in range(1, num_videos + 1)], num_videos
    )
    hits = rng.random(num_videos) < hit_rate
    return truth, [
        result([A if hit else B], 0.9 - i / 1000, video_id=i) for i, hit in enumerate(hits, start=1)
    ]


def test_interval_is_seeded_and_narrows_with_more_videos():
    few, many = many_videos(20, 0.6, 0), many_videos(200, 0.6, 0)
    first = analyse(*few, seed=3).stats["AP"]
    assert analyse(*few, seed=3).stats["AP"] == first != analyse(*few, seed=4).stats["AP"]
    wide, narrow = (analyse(*case).stats["AP50"] for case in (few, many))
    for interval in (wide, narrow):
        assert 0 <= interval.low < interval.value < interval.high <= 1
    ratio = (wide.high - wide.low) / (narrow.high - narrow.low)
    assert 2 < ratio < 5  # about the square root of ten


def test_interval_covers_the_truth_as_often_as_it_says():
    """Recall of a coin with 0.6: of 60 draws of 40 videos about 57 intervals hold it."""
    covered = 0
    for seed in range(60):
        interval = analyse(*many_videos(40, 0.6, seed), resamples=200).stats["AR100"]
        covered += interval.low <= 0.6 <= interval.high
    assert 52 <= covered <= 60


def test_what_is_odd_about_the_results_is_said_once(caplog):
    truth, results = many_videos(4, 1.0, 0)
    results[0]["score"] = 7.0
    with caplog.at_level("WARNING", "seqformer"):
        analyse(truth, [*results, results[-1]], resamples=2)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("1 results have scores outside 0 to 1")
    assert said[1].startswith("1 results are copies of another one")


def test_comparison_is_paired():
    truth, results = many_videos(60, 0.6, 1)
    better = copy.deepcopy(results)
    missed = [i for i, r in enumerate(results) if r["segmentations"] == [B]]
    for i in missed[:4]:
        better[i]["segmentations"] = [A]
    first, second = analyse(truth, results), analyse(truth, better)
    comparison = compare(first, second)
    row = comparison.stats["AP"]
    assert row.difference.value == pytest.approx(row.second - row.first)
    assert row.difference.low >= 0 and row.share_better > 0.9
    paired = row.difference.high - row.difference.low
    assert paired < first.stats["AP"].high - first.stats["AP"].low
    changed = {v for v, (one, other) in comparison.per_video.items() if one != other}
    assert changed == {results[i]["video_id"] for i in missed[:4]}
    same = compare(first, first)
    assert same.stats["AP"].share_better == 0.5
    assert same.per_class[1].difference.low == same.per_class[1].difference.high == 0
    back = compare(second, first).stats["AP"].difference
    assert back.value == pytest.approx(-row.difference.value)


def test_tracking_is_compared_in_pairs():
    truth, results = many_videos(60, 0.6, 1)
    better = copy.deepcopy(results)
    missed = [i for i, r in enumerate(results) if r["segmentations"] == [B]]
    for i in missed[:4]:
        better[i]["segmentations"] = [A]
    first, second = analyse(truth, results), analyse(truth, better)
    for name, interval in first.tracking_stats.items():
        assert interval.value == pytest.approx(first.tracking.stats[name])
        assert interval.low <= interval.value <= interval.high
    comparison = compare(first, second)
    row = comparison.tracking["HOTA"]
    assert row.difference.value == pytest.approx(row.second - row.first)
    assert row.difference.low > 0 and row.share_better > 0.9
    paired = row.difference.high - row.difference.low
    hota = first.tracking_stats["HOTA"]
    assert paired < hota.high - hota.low
    assert comparison.tracking_per_class[1].difference.value == pytest.approx(row.difference.value)
    assert compare(first, first).tracking["IDSW"].share_better == 0.5
    text = format_comparison(comparison, first.truth.categories)
    assert "IDSW" in text and "class (HOTA)" in text


def test_everything_is_json():
    truth, results = many_videos(5, 0.6, 1)
    analysis = analyse(truth, results, **FEW)
    videos = json.loads(json.dumps(analysis.to_dict()))["videos"]
    assert round(videos["1"]["AP"], 9) in (0, 1)
    again = json.loads(json.dumps(compare(analysis, analysis, **FEW).to_dict()))
    assert again["per_video"].keys() == {"1", "2", "3", "4", "5"}


def test_frame_intersections_are_those_of_the_pixels():
    rng = np.random.default_rng(0)
    masks = rng.random((2, 6, 9, 7)) < 0.5
    masks[0, 2] = masks[1, 4] = False
    encoded = [
        [
            {**rle, "counts": rle["counts"].decode()}
            for rle in coco_mask.encode(np.asfortranarray(track.transpose(1, 2, 0), np.uint8))
        ]
        for track in masks
    ]
    expected = (masks[0] & masks[1]).sum(axis=(1, 2))
    one, other = build_tracks(encoded, None)
    assert frame_intersections(one, other).tolist() == expected.tolist()
    one, short = build_tracks([encoded[0], encoded[1][:4]], None)
    assert frame_intersections(one, short).tolist() == expected[:4].tolist()
    overlaps = frame_overlaps([one], [short, other])
    assert overlaps.intersections[:, 0].T.tolist() == [
        [*expected[:4].tolist(), 0, 0],
        expected.tolist(),
    ]
    assert overlaps.result_areas[:, 0].tolist() == masks[0].sum(axis=(1, 2)).tolist()
    assert overlaps.truth_areas[:, 0].tolist() == [*masks[1].sum(axis=(1, 2))[:4].tolist(), 0, 0]
    encoded[1][0] = rectangle(0, 0)  # of another size
    one, other = build_tracks(encoded, None)
    assert frame_intersections(one, other).tolist() == [0, *expected[1:].tolist()]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"iou_threshold": 0.52}, "must be one of 0.50, 0.55"),
        ({"resamples": 0}, "at least 1"),
        ({"seed": -1}, "0 or more"),
        ({"length_edges": [3, 2]}, "must rise"),
        ({"length_edges": [0]}, "must rise"),
    ],
)
def test_arguments_without_sense_are_refused(argument, message):
    truth, results = many_videos(2, 1, 0)
    with pytest.raises(ValueError, match=message):
        analyse(truth, results, **argument)


def test_comparing_different_annotations_is_refused():
    one, other = (analyse(*many_videos(n, 1, 0), **FEW) for n in (2, 3))
    with pytest.raises(ValueError, match="same annotation file"):
        compare(one, other)
