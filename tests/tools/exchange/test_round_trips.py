"""Random tracks go through every format and come back with every pixel."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqformer.cli.main import main
from seqformer.tools.exchange.convert import convert_coco, convert_cvat, convert_labelme
from tests.evaluation.ytvis_problems import rle
from tests.tools.exchange.cvat_files import picture

SIZE = 13, 17
LABELS = ("car", 'a "quoted" & <odd> 名前')


@st.composite
def data_sets(draw):
    """An annotation file: one or two videos, masks with holes, parts and single pixels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    annotations = []
    for video, length in enumerate(lengths, start=1):
        for _ in range(draw(st.integers(0, 3))):
            masks = [
                None if rng.random() < 0.3 else rng.random(SIZE) < rng.choice([0.01, 0.4, 1.1])
                for _ in range(length)
            ]
            masks = [None if m is None or not m.any() else m for m in masks]
            if any(m is not None for m in masks):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "video_id": video,
                        "category_id": int(rng.choice([1, 4])),
                        "iscrowd": 0,
                        "segmentations": [None if m is None else rle(m) for m in masks],
                        "occluded": [int(m is not None and rng.random() < 0.5) for m in masks],
                    }
                )
    return {
        "videos": [
            {
                "id": v,
                "height": SIZE[0],
                "width": SIZE[1],
                "file_names": [f"clip{v}/{t:05d}.jpg" for t in range(n)],
            }
            for v, n in enumerate(lengths, start=1)
        ],
        "categories": [{"id": k, "name": n} for k, n in zip((1, 4), LABELS, strict=True)],
        "annotations": annotations,
    }


def objects(content):
    """What must stay: per video the label, the pixels and the occluded frames of every object."""
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    order = {video["id"]: v for v, video in enumerate(content["videos"])}
    rows = []
    for entry in content["annotations"]:
        masks = [s and (tuple(s["size"]), s["counts"]) for s in entry["segmentations"]]
        occluded = entry.get("occluded") or [0] * len(masks)
        video, name = order[entry["video_id"]], names[entry["category_id"]]
        rows.append((video, name, masks, occluded, entry["iscrowd"]))
    return sorted(rows, key=repr)


def through(tool, content, folder):
    """The annotation file after its way out and back."""
    (folder / "in.json").write_text(json.dumps(content))
    arguments = ["--annotations", str(folder / "in.json"), "--output", str(folder / "out")]
    tool, _, shapes = tool.partition(" ")
    more = ["--shapes", shapes] if shapes else []
    assert main(["data", "export", tool, *arguments, *more]) == 0
    if tool == "labelme":
        path = convert_labelme(folder / "out", folder / "back")
    else:
        names = sorted((folder / "out").glob("*.xml"))
        assert len(names) == len(content["videos"])
        contents = []
        for number, name in enumerate(names):
            path = convert_cvat(name, folder / f"back{number}")
            contents.append(json.loads(path.read_text()))
        return contents
    return [json.loads(path.read_text())]


@pytest.mark.parametrize("tool", ["cvat", "cvat tracks", "labelme"])
@settings(max_examples=15, deadline=None)
@given(content=data_sets())
def test_every_pixel_comes_back(tool, content):
    with tempfile.TemporaryDirectory() as name:
        back = through(tool, content, Path(name))
    if tool != "labelme":  # a file per video
        videos = [
            {
                **content,
                "videos": [v],
                "annotations": [a for a in content["annotations"] if a["video_id"] == v["id"]],
            }
            for v in content["videos"]
        ]
        for one, given_back in zip(videos, back, strict=True):
            assert objects(one) == objects(given_back)
    else:
        assert objects(content) == objects(back[0])


@settings(max_examples=15, deadline=None)
@given(content=data_sets())
def test_coco_sequences_keep_every_pixel(content):
    images, annotations = [], []
    for video in content["videos"]:
        for t, file_name in enumerate(video["file_names"]):
            number = len(images) + 1
            images.append(
                {"id": number, "file_name": file_name, "height": SIZE[0], "width": SIZE[1]}
            )
            annotations += [
                {
                    "id": len(annotations) + i,
                    "image_id": number,
                    "category_id": entry["category_id"],
                    "segmentation": entry["segmentations"][t],
                    "iscrowd": 1,  # as CVAT writes every mask
                    "attributes": {"occluded": bool(entry["occluded"][t]), "track_id": entry["id"]},
                }
                for i, entry in enumerate(content["annotations"])
                if entry["video_id"] == video["id"] and entry["segmentations"][t]
            ]
    coco = {"images": images, "annotations": annotations, "categories": content["categories"]}
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "instances_default.json"
        source.write_text(json.dumps(coco))
        back = json.loads(convert_coco(source, Path(name) / "data").read_text())
    assert objects(content) == objects(back)


def test_results_go_out_above_a_score_with_the_names_of_the_tool(tmp_path):
    mask = np.zeros(SIZE, bool)
    mask[2:5, 3:9] = True
    content = {
        "videos": [
            {
                "id": 3,
                "height": SIZE[0],
                "width": SIZE[1],
                "file_names": ["a/00000.png", "a/00001.png"],
                "source": {
                    "tool": "cvat",
                    "name": "my film",
                    "numbers": [10, 15],
                    "names": ["frame_000010", "frame_000015"],
                    "folder": "",
                },
            }
        ],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": None,
    }
    results = [
        {"video_id": 3, "category_id": 1, "score": s, "segmentations": [None, rle(mask)]}
        for s in (0.9, 0.2)
    ]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps(results))
    for number, file in enumerate(content["videos"][0]["file_names"]):
        path = tmp_path / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, SIZE))
    given_files = ["--annotations", str(tmp_path / "truth.json")]
    given_files += ["--results", str(tmp_path / "results.json")]
    out = tmp_path / "cvat"
    assert main(["data", "export", "cvat", *given_files, "--output", str(out)]) == 0
    text = (out / "my_film.xml").read_text()
    assert '<image id="15" name="frame_000015" width="17" height="13">' in text
    assert text.count("<mask ") == 1 and 'rle="0, 18" left="3" top="2" width="6" height="3"' in text
    out = tmp_path / "labelme"
    images = ["--images", str(tmp_path / "images")]
    assert main(["data", "export", "labelme", *given_files, *images, "--output", str(out)]) == 0
    made = json.loads((out / "my_film" / "00001.json").read_text())
    assert made["imagePath"] == "../../images/a/00001.png"
    assert made["shapes"][0]["description"] == "score 0.900"


def test_what_cvat_cannot_hold_is_said(tmp_path, caplog):
    mask = np.ones(SIZE, bool)
    content = {
        "videos": [{"id": 1, "height": SIZE[0], "width": SIZE[1], "file_names": ["a/0.jpg"]}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 1, "segmentations": [rle(mask)]}
        ],
    }
    assert through("cvat", content, tmp_path)[0]["annotations"][0]["iscrowd"] == 0
    assert "1 objects are crowds is not written" in caplog.text
    (tmp_path / "labelme").mkdir()
    assert through("labelme", content, tmp_path / "labelme")[0]["annotations"][0]["iscrowd"] == 1
