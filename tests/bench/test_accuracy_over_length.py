"""Cutting a video keeps its first frames, and only objects that are seen in them."""

from bench.accuracy_over_length import cut


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
