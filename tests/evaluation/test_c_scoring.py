"""The C code gives the numbers, the warnings and the refusals of the plain path."""

from __future__ import annotations

import copy
import json
import logging
import random

import numpy as np
import pytest
from hypothesis import given, settings

from seqformer._c_library import c_library
from seqformer.evaluation import c_scorer, c_scoring, c_tracking, evaluate, ytvis_metric
from seqformer.evaluation.c_scorer import scorer
from seqformer.evaluation.groups import Groups
from seqformer.evaluation.records import load_json, read_ground_truth, read_predictions
from seqformer.evaluation.track_iou import build_tracks, track_ious
from tests.evaluation.ytvis_problems import annotation, problem, random_problems, rectangle, result
from tests.fuzz.mutations import damage_bytes, damage_value, to_text
from tests.fuzz.scorer import compressed, mask

OFF = c_library().DISABLE_VARIABLE
FULL = [rectangle(2, 3)] * 3

pytestmark = pytest.mark.skipif(scorer() is None, reason="no C compiler")


def outcome(truth, results, is_plain: bool, threads: int = 1):
    """Numbers and warnings, or the sentence of a refusal."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("seqformer")
    logger.addHandler(handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OFF, "0" if is_plain else "")
        try:
            metrics = evaluate(truth, results, threads)
        except ValueError as error:
            return str(error)
        finally:
            logger.removeHandler(handler)
    arrays = (metrics.precision, metrics.recall, metrics.scores)
    return metrics.to_dict(), [array.tobytes() for array in arrays], said


def same(truth, results, folder) -> bool:
    """Whether both paths say the same of two values and of the files that hold them; whether these
    were scored."""
    files = folder / "truth.json", folder / "results.json"
    for file, value in zip(files, (truth, results), strict=True):
        file.write_bytes(value if isinstance(value, bytes) else to_text(value))
    plain = outcome(*files, is_plain=True)
    assert outcome(*files, is_plain=False) == plain
    assert outcome(*files, is_plain=False, threads=3) == plain
    if isinstance(truth, dict) and isinstance(results, list):
        plain_values = outcome(truth, results, is_plain=True)
        assert outcome(truth, results, is_plain=False) == plain_values
    return not isinstance(plain, str)


@settings(deadline=None, max_examples=40)
@given(random_problems())
def test_sound_files(tmp_path_factory, case):
    assert same(*case, tmp_path_factory.mktemp("case"))


def drawn_problem(rng: random.Random):
    """Masks of every form, sizes of which few differ, few frames too many or too few."""
    size = rng.choice(((10, 20), (1, 1), (7, 3)))

    def masks(is_truth: bool):
        frames = 3 if is_truth or rng.random() < 0.9 else rng.randrange(5)
        other = (3, 7) if not is_truth and rng.random() < 0.05 else size
        return [mask(rng, *other) for _ in range(frames)]

    def place():
        return {"video_id": rng.randrange(1, 4), "category_id": rng.randrange(1, 3)}

    annotations = [
        annotation(FULL, id=i, areas=rng.choice((None, [9] * 3)), **place())
        | {"segmentations": masks(True)}
        for i in range(rng.randrange(1, 6))
    ]
    truth = problem(annotations, 3, (1, 2))
    for video in truth["videos"]:
        video["height"], video["width"] = size
        if rng.random() < 0.2:
            video.pop("height"), video.pop("width")
    results = [
        result(masks(False), rng.choice((0.5, 0.5, 1, rng.random())), **place())
        for _ in range(rng.randrange(8))
    ]
    for entry in results:
        if rng.random() < 0.5:  # close to an instance
            near = rng.choice(annotations)
            entry["segmentations"] = copy.deepcopy(near["segmentations"])
            entry |= {key: near[key] for key in ("video_id", "category_id")}
    return truth, results


def test_odd_and_damaged_files(tmp_path):
    """Both paths on 150 files: as they were drawn, with other values, with other bytes."""
    scored = 0
    for number in range(150):
        rng = random.Random(number)
        truth, results = drawn_problem(rng)
        kind = number % 5
        if kind == 1:
            results = damage_value(results, rng)
        if kind == 2:
            truth = damage_value(truth, rng)
        if kind == 3:
            results = damage_bytes(to_text(results), rng)
        if kind == 4:
            truth = damage_bytes(to_text(truth), rng)
        scored += same(truth, results, tmp_path)
    assert 20 < scored < 140


def native(truth, results):
    return outcome(truth, results, is_plain=False)


def test_the_c_code_answers_for_usual_files(tmp_path, monkeypatch):
    """No mask is parsed by Python, and the plain path is not taken."""
    for name, value in (("t", problem([annotation(FULL)])), ("r", [result(FULL)])):
        (tmp_path / name).write_text(json.dumps(value))
    monkeypatch.setattr(ytvis_metric, "_curves", None)
    monkeypatch.setattr(c_scoring, "parse_mask", None)
    assert evaluate(tmp_path / "t", tmp_path / "r").stats["AP"] == pytest.approx(1)
    parsed = load_json(tmp_path / "t", "annotations"), load_json(tmp_path / "r", "results")
    assert len(parsed[1].content) == 1
    assert evaluate(*parsed).stats["AP"] == pytest.approx(1)


def test_polygons_and_reordered_keys_are_taken(tmp_path, monkeypatch):
    polygon = [[3, 2, 8, 2, 8, 6, 3, 6]]
    reordered = dict(reversed(FULL[0].items())) | {"extra": [None, {"a": 1.5e3}, "\\u0041"]}
    truth = problem([annotation(FULL) | {"segmentations": [polygon, FULL[0], reordered]}])
    for name, value in (("t", truth), ("r", [result([reordered, polygon, FULL[0]])])):
        (tmp_path / name).write_text(json.dumps(value, indent=1))
    monkeypatch.setattr(ytvis_metric, "_curves", None)
    assert evaluate(tmp_path / "t", tmp_path / "r").stats["AP"] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(6))
def test_ious_of_rough_masks_are_exact(seed):
    """Columns with several runs, long frames and shifted ones, against the plain path."""
    rng = np.random.default_rng(seed)
    height, width = 61, 90
    frames = np.zeros((2, 4, height, width), bool)
    for t in range(4):
        for n in range(2):
            top, left = rng.integers(0, 30, 2)
            frames[n, t, top : top + 30, left : left + 50] = True
        frames[:, t] ^= rng.random((2, height, width)) < (0, 0.02, 0.3, 0.5)[t]

    def rle(pixels):
        flat = pixels.T.ravel().astype(np.int8)
        edges = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1]))
        runs = np.diff(edges, prepend=0).tolist()
        return {"size": [height, width], "counts": compressed(runs)}

    one, other = ([rle(frame) for frame in track] for track in frames)
    tracks = build_tracks([one, other], None)
    expected = track_ious(tracks[:1], tracks[1:])[0, 0]
    inside, union = (frames[0] & frames[1]).sum(), (frames[0] | frames[1]).sum()
    assert expected == inside / union
    truth = problem([annotation(other, areas=None)])
    truth["videos"][0] |= {"height": height, "width": width}
    rows = ytvis_metric.pairwise_ious(truth, [result(one)])
    assert rows[0, 4] == expected


def test_a_run_that_wraps_32_bits_is_refused():
    """Their sum is right modulo 2**32, and no single number is too long."""
    step = 2**29 - 1
    runs = [0, step, 0, *[step] * 6, 200 + 2**32 - 7 * step - 200]
    wrapped = {"size": [10, 20], "counts": compressed(runs)}
    words = native(problem([annotation(FULL)]), [result([wrapped])])
    assert isinstance(words, str) and "the mask of frame 0 has" in words


def test_more_threads_than_groups_and_none_at_all():
    truth = problem([annotation(FULL)])
    for results in ([], [result(FULL)]):
        one, many = (outcome(truth, results, False, threads) for threads in (1, 16))
        assert one == many


def apart(truth, predictions):
    """Curves and sums from masks that are read for each."""
    scoring = c_scoring.c_scoring(truth, predictions, Groups.of(truth, predictions))
    matched = scoring.match(ytvis_metric._FLOOR)
    curves = c_scoring.curves_of(scoring.library, truth, predictions, matched)
    return curves, c_tracking.tracking_in_c(truth, predictions)


def as_bytes(curves, sums):
    arrays = (curves.precision, curves.recall, curves.scores, curves.num_instances)
    return [array.tobytes() for array in (*arrays, sums.hota, sums.identity)]


@pytest.mark.parametrize("threads", [1, 3])
def test_ap_and_tracking_from_one_reading_are_those_of_two(threads):
    compared = 0
    for number in range(60):
        truth, results = drawn_problem(random.Random(1000 + number))
        if number % 6 == 0:  # more results than count for the AP
            results = [dict(one, score=i / 500) for i, one in enumerate(60 * results)]
        truth = read_ground_truth(truth)
        predictions = read_predictions(results, truth)
        try:
            expected = apart(truth, predictions)
        except c_scoring.NotReadableError:
            continue
        if expected[1] is not None:
            both = c_tracking.all_in_c(truth, predictions, threads)
            assert as_bytes(*both) == as_bytes(*expected)
            compared += 1
    assert compared > 30


def test_code_that_was_replaced_under_a_running_process_is_not_called(monkeypatch, caplog):
    monkeypatch.setattr(c_scorer, "_INTERFACE", c_scorer._INTERFACE - 1)
    c_scorer._load.cache_clear()
    try:
        assert c_scorer.scorer() is None and "changed since the start" in caplog.text
    finally:
        monkeypatch.undo()
        c_scorer._load.cache_clear()
    assert c_scorer.scorer() is not None
