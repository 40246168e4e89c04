"""Statistics of annotation files."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from seqformer.cli.main import run_command
from tests.evaluation.ytvis_problems import rle

main = partial(run_command, "data stats")


def masks(*areas):
    """Squares of these sides, None for 0."""
    tracks = []
    for side in areas:
        mask = np.zeros((20, 40))
        mask[:side, :side] = 1
        tracks.append(rle(mask) if side else None)
    return tracks


@pytest.fixture
def counted(tmp_path):
    """Two videos of 3 and 1 frames of 800 pixels, three instances and a crowd."""

    def entry(number, video_id, category_id, *sides, crowd=0):
        boxes = [[0, 0, side, side] if side else None for side in sides]
        return {"id": number, "video_id": video_id, "category_id": category_id, "iscrowd": crowd,
                "segmentations": masks(*sides), "bboxes": boxes}  # fmt: skip

    content = {
        "videos": [
            {"id": 4, "height": 20, "width": 40, "file_names": ["a/0.jpg", "a/1.jpg", "a/2.jpg"]},
            {"id": 9, "height": 20, "width": 40, "file_names": ["b/0.jpg"]},
        ],
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 7, "name": "ox"}],
        "annotations": [
            entry(1, 4, 2, 10, 20, 0),
            entry(2, 4, 5, 4, 4, 4),
            entry(3, 9, 2, 20),
            entry(4, 9, 2, 20, crowd=1),
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_numbers_worked_by_hand(counted, tmp_path, capsys):
    assert main(["--annotations", str(counted), "--output", str(tmp_path / "n.json")]) == 0
    numbers = json.loads((tmp_path / "n.json").read_text())
    keys = ("videos", "frames", "instances", "crowds", "masks", "videos_without_instances")
    assert [numbers[key] for key in keys] == [2, 4, 3, 1, 6, 0]
    cat, dog, ox = numbers["classes"]
    assert (cat["instances"], cat["videos"], cat["masks"]) == (2, 2, 3)
    assert cat["mean_share_of_frame"] == pytest.approx((250 / 800 + 400 / 800) / 2)
    assert dog["mean_share_of_frame"] == pytest.approx(16 / 800)
    assert (ox["instances"], ox["mean_share_of_frame"]) == (0, None)
    assert numbers["video_length"]["max"] == 3 and numbers["video_length"]["mean"] == 2
    assert numbers["visible_share_of_video"]["min"] == pytest.approx(2 / 3)
    assert numbers["instances_per_video"]["mean"] == 1.5
    assert numbers["frame_sizes"] == [{"height": 20, "width": 40, "videos": 2}]
    out = capsys.readouterr().out
    assert out.startswith("2 videos, 4 frames, 3 instances (1 crowds besides), 6 masks")
    assert "cat" in out and "20 x 40 (2)" in out


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot(dataset, suffix):
    path = dataset.root / "plots" / f"stats.{suffix}"
    assert main(["--annotations", str(dataset.annotations), "--plot", str(path)]) == 0
    if suffix == "png":
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert pixels.shape[1] > 1000
        is_bar = (np.abs(pixels.astype(int) - [0x3B, 0x86, 0xC6]) < 8).all(axis=-1)
        assert is_bar.mean() > 0.02
    else:
        assert path.read_text().startswith("<?xml")


def test_a_file_without_annotations_has_numbers_too(dataset, capsys):
    dataset.content["annotations"] = None
    path = dataset.root / "stats.png"
    assert main(["--annotations", str(dataset.save()), "--plot", str(path)]) == 0
    assert "0 instances" in capsys.readouterr().out and path.is_file()


def test_bad_input(dataset, tmp_path, fails):
    sound = ("--annotations", dataset.annotations)
    assert "does not exist" in fails(main, "--annotations", tmp_path / "nowhere.json")
    dataset.content["annotations"][0]["segmentations"] = [None]
    dataset.save()
    message = fails(main, *sound)
    assert "has 1 segmentations" in message and "annotations entry 0" in message


def test_plot_of_unknown_kind(dataset, capsys):
    for name, message in (("p.txt", "must end in"), ("images.png", "is a folder")):
        (dataset.root / "images.png").mkdir(exist_ok=True)
        arguments = ["--annotations", dataset.annotations, "--plot", dataset.root / name]
        assert main(list(map(str, arguments))) == 2
        assert message in capsys.readouterr().err
