"""One file, one verdict: whatever is wrong with it, training, scoring, check and stats agree."""

from __future__ import annotations

import copy
import json
import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqformer.annotations.ytvis import load_annotation_file, pack_annotations
from seqformer.evaluation.ytvis_metric import evaluate
from seqformer.tools.annotation_json import read_content
from seqformer.tools.check import check, refusal
from seqformer.tools.findings import ERRORS
from seqformer.tools.stats import measure
from tests.evaluation.ytvis_problems import HEIGHT, WIDTH, rectangle, rle

T = 3


def sound() -> dict[str, Any]:
    """Two videos, two classes; masks of every form."""
    box = rectangle(2, 3)
    polygon = [[3, 2, 8, 2, 8, 6, 3, 6]]
    runs = {"size": [HEIGHT, WIDTH], "counts": [32] + [4, 6] * 4 + [4, 124]}
    boxes = [[3.0, 2.0, 5.0, 4.0]] * T
    entry = {"iscrowd": 0, "areas": [20.0] * T, "bboxes": boxes}
    return {
        "videos": [
            {"id": i, "height": HEIGHT, "width": WIDTH,
             "file_names": [f"{i}/{t}.jpg" for t in range(T)]}
            for i in (1, 2)
        ],
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
        "annotations": [
            {"id": 1, "video_id": 1, "category_id": 7, "segmentations": [polygon, runs, None],
             **entry, "bboxes": [*boxes[:2], None], "areas": [20, 20, None]},
            {"id": 2, "video_id": 2, "category_id": 3, "segmentations": [box] * T, **entry},
            {"id": 3, "video_id": 2, "category_id": 7, "segmentations": [box] * T, **entry},
        ],
    }  # fmt: skip


def verdicts(content: dict[str, Any], folder) -> dict[str, str]:
    """Reader -> "" where it takes the file, else what it says."""
    path = folder / "a.json"
    path.write_text(json.dumps(content))

    def said(call) -> str:
        try:
            call()
        except ValueError as error:
            assert "\n" not in str(error)
            return str(error)
        return ""

    def checked() -> str:
        try:
            read = read_content(path)
        except ValueError as error:
            return str(error)
        findings, mended = check(read)
        if mended["videos"] and mended["categories"]:
            assert refusal(mended) == "", "what --fix writes"
        errors = [f"{i.kind}: {i.problem}" for i in findings.items if i.kind in ERRORS]
        return errors[0] if errors else ""

    return {
        "training": said(lambda: load_annotation_file(path)),
        "scoring": said(lambda: evaluate(path, [])),
        "stats": said(lambda: measure(path)),
        "check": checked(),
    }


ODD = (
    *(None, "", "x", "1", 0, 1, -1, 2, 1.0, 0.5, float("nan"), float("inf"), 2**63, 2**64, 1e300),
    *(True, [], [1], [None] * T, [0] * T, ["0"] * T, {}, {"size": [HEIGHT, WIDTH]}),
    *([[0, 0, 0, 0]] * T, [[1, 2, 3]] * T, [[0, 0, 1e6, 1e6, -1e6, 5]], rectangle(2, 3)),
    *(rle(np.zeros((HEIGHT, WIDTH))), {"size": [WIDTH, HEIGHT], "counts": "04"}),
    {"size": [HEIGHT, WIDTH], "counts": "o\0" + "1" * 99},
    *({"size": [HEIGHT, WIDTH], "counts": [1, 2.5]}, {"size": [HEIGHT, WIDTH], "counts": []}),
    *([[1.0, 2.0] * 3], [[1e7] * 6], [["a"] * 6]),
)  # fmt: skip
PLACES = (
    *(("videos", 0, key) for key in ("id", "height", "width", "length", "fps")),
    *(("videos", 0, "file_names", t) for t in (0, 1)),
    *(("categories", 0, key) for key in ("id", "name", "supercategory")),
    *(
        ("annotations", 1, key)
        for key in ("id", "video_id", "category_id", "iscrowd", "areas", "bboxes", "segmentations")
    ),
    *(("annotations", 1, key, 1) for key in ("areas", "bboxes", "segmentations")),
    *(("annotations", 1), ("videos", 1), ("categories", 1), ("annotations",)),
)
GONE = object()


def damaged(place: tuple, value: Any) -> dict[str, Any]:
    content = sound()
    inner: Any = content
    for key in place[:-1]:
        inner = inner[key]
    if value is GONE and isinstance(inner, dict):
        inner.pop(place[-1], None)
    elif value is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = copy.deepcopy(value)
    return content


def agree(content: dict[str, Any], folder) -> None:
    actual = verdicts(content, folder)
    is_refused = {reader: bool(words) for reader, words in actual.items()}
    # Scoring needs neither frames nor sizes nor a class, so it may take a file that lacks them.
    missing = any(
        isinstance(video, dict) and None in map(video.get, ("height", "width", "file_names"))
        for video in content["videos"]
    )
    if missing or not content["videos"] or not content["categories"]:
        del is_refused["scoring"]
    if any("leaves-folder" in words for words in actual.values()):
        return  # found without the folder of images, of which the others know nothing
    assert len(set(is_refused.values())) == 1, actual


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_every_reader_says_the_same_of_one_odd_value(place, tmp_path):
    for value in (*ODD, GONE):
        agree(damaged(place, value), tmp_path)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(range(len(ODD)))), max_size=3))
def test_every_reader_says_the_same_of_several(tmp_path_factory, faults):
    content = sound()
    for place, number in faults:
        inner: Any = content
        try:
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = copy.deepcopy(ODD[number])
        except (KeyError, IndexError, TypeError):
            continue
    agree(content, tmp_path_factory.mktemp("verdict"))


def test_a_sound_file_is_taken_without_a_word(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert set(verdicts(sound(), tmp_path).values()) == {""}
    assert not caplog.records
    assert pack_annotations("it", sound()).columns.video_ids.tolist() == [1, 2]
