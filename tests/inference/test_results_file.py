"""The results file: its layout, and that nothing computed is ever lost."""

from __future__ import annotations

import json
import logging
import zipfile

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from seqformer.annotations.run_lengths import encode_masks
from seqformer.files import write_json
from seqformer.inference.prediction import Detection, VideoPrediction
from seqformer.inference.results_file import PartialResults, load_results

SETTINGS = {"weights_sha256": "abc", "short_side": 360}


def prediction() -> VideoPrediction:
    masks = np.zeros((4, 6, 2), bool)
    masks[1:3, 2:5, 0] = True
    detection = Detection(
        query=17,
        class_index=3,
        category_id=3,
        score=0.75,
        segmentations=tuple(encode_masks(masks)),
        boxes_xyxy=np.zeros((2, 4), np.float32),
    )
    return VideoPrediction(detections=(detection,), num_frames=2, frame_size=(4, 6))


def test_entry_has_the_published_layout():
    (entry,) = json.loads(json.dumps(prediction().entries(12, "clip/0.jpg")))
    assert list(entry) == ["video_id", "video_name", "score", "category_id", "segmentations"]
    assert (entry["video_id"], entry["category_id"], entry["score"]) == (12, 3, 0.75)
    assert [s["size"] for s in entry["segmentations"]] == [[4, 6], [4, 6]]
    assert [int(coco_mask.area(s)) for s in entry["segmentations"]] == [6, 0]
    assert isinstance(entry["segmentations"][0]["counts"], str)


def test_video_name_is_cut_to_ten_characters():
    assert prediction().entries(1, "0062f687f1/00000.jpg")[0]["video_name"] == "0062f687f1"
    assert prediction().entries(1, "ab/0.jpg")[0]["video_name"] == "ab/0.jpg"


def test_masks_survive_encoding():
    masks = np.random.default_rng(0).random((7, 5, 3)) > 0.5
    decoded = coco_mask.decode(encode_masks(masks))
    assert np.array_equal(decoded.astype(bool), masks)
    assert prediction().detections[0].mask(0).sum() == 6


def test_file_is_replaced_only_when_complete(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, [1, object()])
    assert json.loads(path.read_text()) == [1]
    assert list(tmp_path.iterdir()) == [path]


def test_results_are_read_from_json_and_zip(tmp_path):
    write_json(tmp_path / "results.json", [{"video_id": 1}])
    with zipfile.ZipFile(tmp_path / "submission.zip", "w") as archive:
        archive.write(tmp_path / "results.json", "results.json")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.write(tmp_path / "results.json", "deep/results.json")
    assert load_results(tmp_path / "results.json") == [{"video_id": 1}]
    assert load_results(tmp_path / "submission.zip") == [{"video_id": 1}]
    with pytest.raises(ValueError, match=r"no zip with a results\.json"):
        load_results(tmp_path / "other.zip")


@pytest.mark.parametrize(
    ("content", "message"),
    [("[{", "not complete JSON"), ("{}", "must hold a list"), ("\xff\xfe", "not complete JSON")],
)
def test_broken_results_are_refused(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        load_results(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_results(tmp_path / "none.json")


def test_finished_videos_are_continued(tmp_path):
    path = tmp_path / "results.json.partial.jsonl"
    first = PartialResults(path, SETTINGS)
    first.add(5, [{"score": 0.5}])
    assert len(path.read_text().splitlines()) == 2  # on disk before the run ends
    first.add(2, [])
    first.close()
    second = PartialResults(path, SETTINGS)
    assert second.finished == {5: [{"score": 0.5}], 2: []}
    second.add(9, [])
    second.remove()
    assert not path.exists()


def test_line_cut_by_a_crash_is_dropped(tmp_path):
    path = tmp_path / "partial.jsonl"
    first = PartialResults(path, SETTINGS)
    first.add(1, [])
    first.add(2, [{"score": 0.25}])
    first.close()
    path.write_text(path.read_text()[:-9])
    second = PartialResults(path, SETTINGS)
    assert second.finished == {1: []}
    second.add(2, [{"score": 0.5}])
    second.close()
    assert PartialResults(path, SETTINGS).finished == {1: [], 2: [{"score": 0.5}]}


@pytest.mark.parametrize("content", ["", "nonsense\n", "[]\n", '{"settings": 3}\n', "{}\n"])
def test_damaged_file_is_ignored_aloud(tmp_path, caplog, content):
    path = tmp_path / "partial.jsonl"
    path.write_text(content)
    assert PartialResults(path, SETTINGS).finished == {}
    assert "damaged and is ignored" in caplog.text


def test_other_settings_are_not_continued(tmp_path, caplog):
    path = tmp_path / "partial.jsonl"
    first = PartialResults(path, SETTINGS)
    first.add(1, [])
    first.close()
    with caplog.at_level(logging.WARNING):
        assert PartialResults(path, {**SETTINGS, "short_side": 240}).finished == {}
    assert "other settings (short_side) and is ignored" in caplog.text


def test_fresh_run_starts_over(tmp_path):
    path = tmp_path / "partial.jsonl"
    first = PartialResults(path, SETTINGS)
    first.add(1, [])
    first.close()
    assert PartialResults(path, SETTINGS, fresh=True).finished == {}
