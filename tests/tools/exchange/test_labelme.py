"""labelme's files: shapes as labelme draws them, and mistakes as one sentence."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from seqformer.cli.main import main
from seqformer.tools.exchange.convert import convert_labelme
from tests.tools.exchange.cvat_files import HEIGHT, WIDTH, picture


def shape(points, kind="polygon", label="кот", group_id=1, **more):
    return {
        "label": label,
        "points": points,
        "group_id": group_id,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
        **more,
    }


def png(mask):
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write(folder, stem, shapes, **more):
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{stem}.jpg",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **more,
    }
    (folder / f"{stem}.json").write_text(json.dumps(content))


def convert(tmp_path, **options):
    path = convert_labelme(tmp_path / "in", tmp_path / "data", **options)
    return json.loads(path.read_text())


def test_shapes_of_every_kind(tmp_path, caplog):
    folder = tmp_path / "in" / "clip"
    patch = np.random.default_rng(0).random((4, 5)) < 0.5
    patch[0, 0] = patch[-1, -1] = True
    write(
        folder,
        "f1",
        [
            shape([[2, 2], [8, 2], [8, 8], [2, 8]]),
            shape([[20, 10], [20, 13]], "circle"),
            shape([[1, 1], [9, 9]], "rectangle", group_id=2),
            shape([[1, 1]], "point"),
        ],
    )
    write(
        folder, "f2", [shape([[3, 4], [7, 7]], "mask", mask=png(patch), flags={"occluded": True})]
    )
    write(folder, "f10", [shape([[1, 1], [5, 1], [1, 5]], label="dog", group_id=None)])
    for stem in ("f1", "f2", "f3", "f10"):
        (folder / f"{stem}.jpg").write_bytes(picture(kind="JPEG"))
    content = convert(tmp_path)
    assert content["videos"][0]["source"]["names"] == ["f1.jpg", "f2.jpg", "f3.jpg", "f10.jpg"]
    cat, dog = content["annotations"]
    assert [bool(s) for s in cat["segmentations"]] == [True, True, False, False]
    assert [bool(s) for s in dog["segmentations"]] == [False, False, False, True]
    assert cat["occluded"] == [0, 1, 0, 0]
    first, second = (coco_mask.decode(s).astype(bool) for s in cat["segmentations"][:2])
    assert first[2:9, 2:9].all() and first[10, 17:24].all()  # outlines belong to it
    assert (second[4:8, 3:8] == patch).all() and second.sum() == patch.sum()
    for words in ("1 rectangles have no mask", "1 points and lines", "1 shapes have no group_id"):
        assert words in caplog.text
    assert len(convert(tmp_path, take_boxes=True)["annotations"]) == 3


def test_a_mask_that_leaves_the_frame_and_fractional_corners(tmp_path):
    folder = tmp_path / "in"
    ones = np.ones((4, 4), bool)
    write(folder, "0", [shape([[-2.4, -1.6], [1.4, 2.4]], "mask", mask=png(ones))])
    (entry,) = convert(tmp_path)["annotations"]
    mask = coco_mask.decode(entry["segmentations"][0])
    assert mask.sum() == 4 and mask[:2, :2].all()


def test_pictures_inside_the_files_and_in_a_folder_of_their_own(tmp_path):
    inside = base64.b64encode(picture(7, kind="JPEG")).decode()
    square = [shape([[1, 1], [5, 1], [1, 5]])]
    write(tmp_path / "in" / "a", "0", square, imageData=inside)
    content = convert(tmp_path)
    frame = tmp_path / "data" / "JPEGImages" / content["videos"][0]["file_names"][0]
    assert frame.suffix == ".jpg" and frame.read_bytes() == picture(7, kind="JPEG")
    elsewhere = tmp_path / "frames" / "a" / "00000.png"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(picture(9))
    path = "..\\..\\frames\\a\\00000.png"  # as on Windows
    write(tmp_path / "in" / "a", "0", square, imagePath=path)
    content = convert(tmp_path, images=tmp_path / "frames")
    frame = tmp_path / "data" / "JPEGImages" / content["videos"][0]["file_names"][0]
    assert frame.read_bytes() == picture(9)
    convert(tmp_path, images=tmp_path / "data")  # leads out of the folder: not read


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([{"points": []}], "has no label"),
        ([shape([[1, 2]], "polygon")], "a polygon of 1 points"),
        ([shape([[1, 2], [3, 4]], "mask", mask="no")], "its mask is no PNG"),
        ([shape([[1, 2], [3, 4]], "mask")], "a mask without its picture"),
        ([shape([[1, 2], [3, "x"]], "circle")], "needed are [[x, y], ...]"),
        ([shape([[1, 2], [3, 4]], "star")], "no shape of labelme"),
        ([shape([[1, 2], [3, 4]], "circle", group_id="a")], "group_id is 'a'"),
        ("none", "no list of shapes"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path, capsys, shapes, words):
    write(tmp_path / "in", "0", shapes)
    assert main(["data", "convert", "labelme", str(tmp_path / "in"), str(tmp_path / "data")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("seqformer data convert: error: ") and words in error
    assert "0.json" in error
