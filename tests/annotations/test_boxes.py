"""Boxes beside masks: missing, unusable, without a mask, and read in the wrong way."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest

from seqformer.annotations.ytvis import pack_annotations
from tests.annotations.test_same_verdict import sound
from tests.evaluation.ytvis_problems import HEIGHT, WIDTH, rectangle

PLACES = [(1, 2), (3, 9), (5, 14)]
"""Top and left of the masks, 4 x 5 pixels, in three frames."""


def with_boxes(boxes) -> dict:
    content = sound()
    content["annotations"] = content["annotations"][1:2]
    content["annotations"][0]["segmentations"] = [rectangle(*place) for place in PLACES]
    content["annotations"][0]["bboxes"] = boxes
    return content


def taken(content, presence="mask") -> tuple[np.ndarray, list[str]]:
    packed = pack_annotations("it", copy.deepcopy(content), presence)
    return packed.columns.boxes_xyxy, packed.extra["notes"]


RIGHT = np.array([[x, y, x + 5, y + 4] for y, x in PLACES], np.float32)


@pytest.mark.parametrize(
    "boxes",
    [
        None,
        [None] * 3,
        [[0, 0, 0, 0]] * 3,
        [[]] * 3,
        "x",
        [[1, 2, 3, 4]],
        [["1", 2, 3, 4]] * 3,
        [[float("nan")] * 4] * 3,
        [[-90, -90, 5, 5]] * 3,
    ],
)
def test_a_mask_without_a_usable_box_gets_its_own(boxes):
    actual, notes = taken(with_boxes(boxes))
    np.testing.assert_array_equal(actual, RIGHT)
    assert notes == [
        "it: 3 masks without a usable box, which is made from the mask (first: it, annotations "
        "entry 0, frame 0)"
    ]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (lambda x, y: [x, y, x + 5, y + 4], "corners (x0, y0, x1, y1)"),
        (lambda x, y: [x / WIDTH, y / HEIGHT, 5 / WIDTH, 4 / HEIGHT], "shares of the frame"),
        (
            lambda x, y: [x / WIDTH, y / HEIGHT, (x + 5) / WIDTH, (y + 4) / HEIGHT],
            "corners as shares",
        ),
        (
            lambda x, y: [(x + 2.5) / WIDTH, (y + 2) / HEIGHT, 5 / WIDTH, 4 / HEIGHT],
            "centres and sizes as shares",
        ),
    ],
)
def test_boxes_of_another_meaning_are_found_out(form, words):
    actual, notes = taken(with_boxes([form(x, y) for y, x in PLACES]))
    np.testing.assert_array_equal(actual, RIGHT)
    assert len(notes) == 1 and words in notes[0] and "it: 3 boxes" in notes[0]


def test_boxes_that_are_loose_or_tight_stay_as_they_are():
    boxes = [[x - 2, y - 1, 9, 7] for y, x in PLACES]
    actual, notes = taken(with_boxes(boxes))
    assert notes == [] and actual[1].tolist() == [7, 2, 16, 9]


def test_a_box_without_a_mask_is_left_out():
    content = with_boxes([[x, y, 5, 4] for y, x in PLACES])
    content["annotations"][0]["segmentations"][1] = None
    actual, notes = taken(content)
    assert not actual[1].any() and "1 boxes without a mask" in notes[0]
    actual, notes = taken(content, presence="box")
    assert actual[1].tolist() == RIGHT[1].tolist() and notes == []


def test_as_published_the_box_decides():
    content = with_boxes([[2, 1, 5, 4], None, [0, 0, 0, 0]])
    actual, _ = taken(content, presence="box")
    assert actual.tolist() == [RIGHT[0].tolist(), [0] * 4, [0] * 4]


def test_an_empty_mask_is_no_instance():
    content = with_boxes([[x, y, 5, 4] for y, x in PLACES])
    blank = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    content["annotations"][0]["segmentations"][0] = blank
    packed = pack_annotations("it", content)
    assert packed.segmentation(0) is None and not packed.columns.boxes_xyxy[0].any()


def test_what_is_said_is_said_again_from_the_cache(tmp_path, caplog, monkeypatch):
    import json

    from seqformer.annotations import cache
    from seqformer.annotations.ytvis import load_annotation_file

    monkeypatch.setattr(cache, "SMALLEST_CACHED", 1)
    (tmp_path / "a.json").write_text(json.dumps(with_boxes(None)))
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            load_annotation_file(tmp_path / "a.json", cache=tmp_path / "cache")
        assert "3 masks without a usable box" in caplog.text
        caplog.clear()
