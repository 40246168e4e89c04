"""`eval --stills` from the outside: pictures in, COCO's results, scores and drawings out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from seqformer.cli.eval import main
from seqformer.data.synthetic_stills import StillsPaths, make_synthetic_stills
from seqformer.model import build_model, save_safetensors
from seqformer.structures import ClassMap

SMALL = ["--short-side", "32", "--top-k", "5", "--device", "cpu", "--threads", "1"]
NAMES = ("disc", "triangle", "star", "cross", "ring")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    sizes = dict(num_encoder_layers=1, num_decoder_layers=1, ffn_dim=32, mask_dim=8)
    model = build_model("resnet_mini", num_classes=5, hidden_dim=32, num_queries=4, **sizes)
    torch.nn.init.constant_(model.controller.layers[-1].bias[-1:], 0.5)  # masks with pixels
    path = tmp_path_factory.mktemp("weights") / "mini.safetensors"
    save_safetensors(path, model, ClassMap((1, 2, 3, 4, 5), NAMES))
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> StillsPaths:
    root = tmp_path_factory.mktemp("drawn") / "coco"
    return make_synthetic_stills(root, num_train=1, num_val=3, height=40, width=64, seed=1)


def run(weights: Path, images: Path, output: Path, *more: str) -> int:
    common = ["--weights", str(weights), "--images", str(images), "--output", str(output)]
    return main([*common, "--stills", *SMALL, *more])


def test_listed_pictures_are_scored_as_coco_scores_them(weights, drawn, tmp_path, capsys):
    output, metrics = tmp_path / "results.json", tmp_path / "metrics.json"
    truth = str(drawn.val_annotations)
    files = ["--annotations", truth, "--metrics", str(metrics), "--visualize", str(tmp_path / "d")]
    shown = ["--visualize-min-score", "0.0"]
    assert run(weights, drawn.val_images, output, *files, *shown) == 0
    entries = json.loads(output.read_text())
    assert {entry["image_id"] for entry in entries} == {1, 2, 3}
    assert set(entries[0]) == {"image_id", "category_id", "score", "segmentation", "bbox"}
    scores = json.loads(metrics.read_text())
    for kind, prefix in (("segm", ""), ("bbox", "box_")):
        coco = COCO(truth)
        # As pycocotools reads a file of such results: masks alone, or boxes alone.
        drop = "bbox" if kind == "segm" else "segmentation"
        own = [{k: v for k, v in entry.items() if k != drop} for entry in entries]
        official = COCOeval(coco, coco.loadRes(own), kind)
        official.evaluate()
        official.accumulate()
        official.summarize()
        numbers = [scores[f"{prefix}{name}"] for name in list(scores)[:12]]
        assert numbers == pytest.approx(official.stats.tolist(), abs=1e-12)
    assert "boxes" in capsys.readouterr().out
    pictures = sorted((tmp_path / "d").iterdir())
    assert [path.name for path in pictures] == [f"{n:012d}.png" for n in (1, 2, 3)]
    height, width, _ = np.asarray(Image.open(pictures[0])).shape
    assert height * 64 == width * 40  # small ones are enlarged, as videos are
    again = ["--results", str(output), "--annotations", truth, "--stills"]
    assert main([*again, "--metrics", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == scores


def test_a_folder_of_any_pictures(weights, tmp_path):
    """Grey, with a palette, transparent, CMYK; in folders; of different sizes."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    picture.convert("L").save(folder / "grey.jpg")
    picture.convert("CMYK").save(folder / "more" / "print.jpg")
    picture.resize((30, 50)).convert("P").save(folder / "palette.png")
    picture.convert("RGBA").save(folder / "more" / "grey.png")
    output = tmp_path / "results.json"
    assert run(weights, folder, output, "--visualize", str(tmp_path / "drawn")) == 0
    entries = json.loads(output.read_text())
    named = {entry["image_id"]: entry["file_name"] for entry in entries}
    expected = ["grey.jpg", "more/grey.png", "more/print.jpg", "palette.png"]
    assert [named[number] for number in (1, 2, 3, 4)] == expected
    sizes = {entry["image_id"]: entry["segmentation"]["size"] for entry in entries}
    assert sizes == {1: [40, 56], 2: [40, 56], 3: [40, 56], 4: [50, 30]}
    assert len(list((tmp_path / "drawn").iterdir())) == 4


def test_a_broken_picture_is_named_and_the_others_go_on(weights, drawn, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        data = (drawn.val_images / f"{1:012d}.jpg").read_bytes()
        (folder / name).write_bytes(data if name == "a.jpg" else data[:300])
    output = tmp_path / "results.json"
    assert run(weights, folder, output) == 1
    said = capsys.readouterr().err
    assert "1 of 2 pictures failed" in said and "picture 2 (b)" in said and "b.jpg" in said
    assert {entry["image_id"] for entry in json.loads(output.read_text())} == {1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: {"videos": [], "categories": []}, "lists videos .* and no images"),
        (lambda c: {**c, "images": []}, "has no images"),
        (lambda c: {**c, "annotations": 3}, "annotations must be a list"),
        (
            lambda c: {**c, "annotations": [{**c["annotations"][0], "image_id": 77}]},
            "annotation 1 is of image 77, which the file does not list",
        ),
        (
            lambda c: {**c, "annotations": [{**c["annotations"][0], "category_id": 77}]},
            "annotation 1 is of category 77, which the file does not list",
        ),
        (
            lambda c: {**c, "annotations": [{**c["annotations"][0], "segmentation": None}]},
            "annotation 1: its mask is missing",
        ),
        (
            lambda c: {**c, "categories": [{"id": 50, "name": "x"}], "annotations": []},
            "has no result of a category that .* lists",
        ),
    ],
)
def test_files_that_cannot_be_scored(drawn, tmp_path, capsys, change, expected):
    content = json.loads(drawn.val_annotations.read_text())
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(change(content)))
    rle = content["annotations"][0]["segmentation"]
    result = {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": rle}
    (tmp_path / "results.json").write_text(json.dumps([result]))
    files = ["--results", str(tmp_path / "results.json"), "--annotations", str(file)]
    assert main([*files, "--stills"]) == 2
    said = capsys.readouterr().err
    assert re.search(expected, said) and said.count("\n") == 1 and "Traceback" not in said


def test_what_is_for_videos_is_refused(weights, drawn, tmp_path, capsys):
    more = ["--annotations", str(drawn.val_annotations), "--report", str(tmp_path / "r")]
    assert run(weights, drawn.val_images, tmp_path / "results.json", *more) == 2
    assert "--report is for videos" in capsys.readouterr().err
    assert run(weights, tmp_path / "absent", tmp_path / "results.json") == 2
    assert "does not exist" in capsys.readouterr().err
