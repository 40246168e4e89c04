"""COCO annotation files: the command that filters them, and what the loader reads and refuses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqformer.annotations.coco import load_coco_file
from seqformer.annotations.coco_categories import coco_to_ytvis
from seqformer.cli.main import run_command

main = partial(run_command, "data coco-to-ytvis")

COCO_IDS = sorted(set(coco_to_ytvis("2019")) | set(coco_to_ytvis("2021")) | {10, 16, 34, 62})


def make_coco(root: Path, num_images: int = 3) -> dict:
    """Images of a person (1), a chair (62, mapped nowhere), a mouse (74) and a crowd."""
    (root / "train2017").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    content = {
        "info": {},
        "licenses": [],
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": f"coco {i}"} for i in COCO_IDS],
    }
    for image in range(1, num_images + 1):
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "train2017" / f"{image:012d}.jpg")
        content["images"].append(
            {"id": image, "file_name": f"{image:012d}.jpg", "height": 48, "width": 64}
        )
        polygon = [[10, 8, 40, 8, 40, 30, 10, 30]]
        crowd = {"size": [48, 64], "counts": [100, 50, 48 * 64 - 150]}
        for category, is_crowd, mask in [
            (1, 0, polygon),
            (62, 0, polygon),
            (74, 0, polygon),
            (1, 1, crowd),
        ]:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image,
                    "category_id": category,
                    "iscrowd": is_crowd,
                    "bbox": [10, 8, 30, 22],
                    "area": 660,
                    "segmentation": mask,
                }
            )
    content["images"].append({"id": 99, "file_name": "none.jpg", "height": 48, "width": 64})
    return content


@pytest.fixture
def coco(tmp_path):
    """(path of the file, its content, a function that saves it)."""
    content = make_coco(tmp_path)
    path = tmp_path / "instances_train2017.json"
    path.write_text(json.dumps(content))
    return path, content, lambda: path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("categories", "name", "labels"),
    [
        ("2019", "coco_keepfor_ytvis2019.json", {1, 36}),
        ("2019_published", "coco_keepfor_ytvis2019_published.json", {1, 24}),
        ("2021", "coco_keepfor_ytvis2021.json", {26, 24}),
        ("ovis", "coco_keepfor_ovis.json", {1}),
    ],
)
def test_the_command_keeps_and_maps(coco, capsys, categories, name, labels):
    path, content, save = coco
    content["categories"] = [{"id": i, "name": f"coco {i}"} for i in range(1, 91)]
    save()
    main([str(path), "--categories", categories])
    made = json.loads(path.with_name(name).read_text())
    assert [image["id"] for image in made["images"]] == [1, 2, 3]
    assert {a["category_id"] for a in made["annotations"]} == labels
    assert not any(a["iscrowd"] for a in made["annotations"])
    assert len(made["categories"]) == (25 if categories == "ovis" else 40)
    assert "in 3 images" in capsys.readouterr().out
    loaded = load_coco_file(path.with_name(name), "as_is")
    assert set(loaded.packed.columns.category_ids.tolist()) == labels
    # The same as mapping the raw file, had it no other category.
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 62]
    if categories != "ovis":
        save()
        mapped = load_coco_file(path, categories)
        np.testing.assert_array_equal(
            mapped.packed.columns.category_ids, loaded.packed.columns.category_ids
        )


def test_own_classes_are_matched_by_name(coco, tmp_path):
    path, content, save = coco
    content["categories"] = [{"id": 1, "name": "person"}, {"id": 62, "name": "tennis racket"}]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 74]
    save()
    own = tmp_path / "own.json"
    own.write_text(
        json.dumps({"categories": [{"id": 5, "name": "Tennis_Racket"}, {"id": 2, "name": "x"}]})
    )
    main([str(path), "--like", str(own), "--output", str(tmp_path / "sub" / "out.json")])
    made = json.loads((tmp_path / "sub" / "out.json").read_text())
    assert {a["category_id"] for a in made["annotations"]} == {5}
    assert made["categories"] == [{"id": 5, "name": "Tennis_Racket"}, {"id": 2, "name": "x"}]


def test_mistakes_of_the_command_are_one_sentence(coco, tmp_path, capsys):
    path, content, save = coco

    def message(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1
        return error[0]

    assert "does not exist" in message(str(tmp_path / "no.json"))
    assert "is the source itself" in message(str(path), "--output", str(path))
    content["categories"] = content["categories"][:6]
    save()
    assert "lacks the COCO categories 8, 9," in message(str(path))
    path.write_text('{"images": [')
    assert "not complete JSON" in message(str(path))
    assert not list(tmp_path.glob("coco_keepfor*"))


def test_what_is_read(coco):
    path, content, save = coco
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 62]
    content["annotations"][0]["segmentation"] = []  # without a mask: left out
    save()
    loaded = load_coco_file(path, "2019")
    assert [(v.id, v.length, len(v.instances)) for v in loaded.videos] == [
        (1, 1, 1),
        (2, 1, 2),
        (3, 1, 2),
    ]
    assert [i.category_id for i in loaded.videos[1].instances] == [1, 36]
    assert loaded.videos[1].file_name(0) == "000000000002.jpg"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: None, r"annotation 2 has category_id 62, which has no counterpart .*coco-to-yt"),
        (lambda c: c.pop("images"), "has no images"),
        (lambda c: c["images"][1].pop("file_name"), "image 2 has file_names that are not"),
        (lambda c: c["images"][1].update(id=1), "two images with the id 1"),
        (lambda c: c["annotations"][0].update(image_id=77), "image 77, which the file does not"),
        (
            lambda c: c["annotations"][0].update(segmentation=[[1, 2]]),
            "annotation 1: the mask of frame 0 is a list",
        ),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "no image with an instance"),
    ],
)
def test_mistakes_in_the_file_are_named(coco, change, expected, one_line):
    path, content, save = coco
    if expected[:12] != "annotation 2":
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 62]
    change(content)
    save()
    with pytest.raises(ValueError, match=expected) as error:
        load_coco_file(path, "2019")
    assert str(path) in one_line(error.value)


def test_missing_file_says_how_to_make_it(tmp_path, one_line):
    with pytest.raises(FileNotFoundError, match=r"seqformer data coco-to-ytvis") as error:
        load_coco_file(tmp_path / "coco_keepfor_ytvis2019.json", "as_is")
    one_line(error.value)
