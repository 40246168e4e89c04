"""Cutting a video keeps its first frames, and only objects that are seen in them."""

import json

import pytest

from bench.accuracy_over_length import (
    PAGE,
    RECORD,
    Options,
    cut,
    lost_from,
    main,
    page,
    verdict,
)


def record(whole, clips):
    rows = [
        {"frames": frames, "mode": mode, "AP": ap, "AP50": ap}
        for mode, aps in (("whole", whole), ("clips", clips))
        for frames, ap in zip((10, 50, 200, 1000), aps, strict=True)
    ]
    return {
        "videos": 2,
        "frame_size": [64, 96],
        "slower": 5.0,
        "machine": "one thread of a CPU",
        "rows": rows,
    }


@pytest.mark.parametrize(
    ("whole", "clips", "expected"),
    [
        ((0.5, 0.4, 0.2, 0.1), (0.5, 0.3, 0.3, 0.3), "between 50 and 200 frames"),
        ((0.5, 0.4, 0.2, 0.1), (0.6, 0.5, 0.3, 0.3), "better at every length that was measured"),
        ((0.5, 0.4, 0.2, 0.1), (0.5, 0.4, 0.2, 0.1), "at least as good at every length"),
        ((0.5, 0.4, 0.2, 0.3), (0.6, 0.3, 0.3, 0.2), "not at all longer ones"),
    ],
)
def test_the_page_says_when_to_switch(whole, clips, expected):
    assert expected in verdict(record(whole, clips))


def test_the_page_and_its_figure_show_both_modes(tmp_path):
    made = tmp_path / "record.json"
    made.write_text(json.dumps(record((0.5, 0.4, 0.2, 0.1), (0.5, 0.3, 0.3, 0.3))))
    main(Options(out=made, page=tmp_path / "page.md", render=True))
    text = (tmp_path / "page.md").read_text()
    assert "| 1,000 | 10.0 | 30.0 |" in text and "(page.svg)" in text
    assert (tmp_path / "page.svg").read_text().startswith("<?xml")


def test_the_page_says_from_when_on_both_are_lost():
    text = page(record((0.5, 0.4, 0.02, 0.0), (0.5, 0.3, 0.01, 0.0)), "page.svg")
    assert "From 200 frames on neither" in text
    assert lost_from(record((0.5, 0.0, 0.1, 0.1), (0.5, 0.0, 0.0, 0.0))) is None


def test_the_page_in_docs_is_that_of_the_record():
    made = json.loads(RECORD.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page(made, PAGE.with_suffix(".svg").name)


def test_weights_are_asked_for():
    with pytest.raises(ValueError, match="give --weights FILE"):
        Options()


def test_objects_of_later_frames_are_left_out():
    mask = {"size": [1, 1], "counts": "01"}
    annotations = {
        "categories": [{"id": 1}],
        "videos": [{"id": 1, "file_names": ["a", "b", "c"], "length": 3}],
        "annotations": [
            {"id": 1, "segmentations": [mask, None, mask], "bboxes": [[0], None, [2]], "length": 3},
            {"id": 2, "segmentations": [None, None, mask], "bboxes": [None, None, [2]]},
        ],
    }
    short = cut(annotations, 2)
    assert short["videos"] == [{"id": 1, "file_names": ["a", "b"], "length": 2}]
    (kept,) = short["annotations"]
    assert kept["id"] == 1 and kept["length"] == 2
    assert kept["segmentations"] == [mask, None] and kept["bboxes"] == [[0], None]
    assert cut(annotations, 3)["annotations"][1]["id"] == 2
    assert annotations["videos"][0]["length"] == 3, "the given file was changed"
