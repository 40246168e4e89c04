"""The check of annotation files: every fault is found, named, and gone from the mended file."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from seqformer.annotations.ytvis import load_annotation_file
from seqformer.cli.main import run_command
from seqformer.tools.check import check
from seqformer.tools.findings import ERRORS, WARNINGS
from tests.evaluation.ytvis_problems import rle
from tests.tools.conftest import HEIGHT, NUM_FRAMES, WIDTH

main = partial(run_command, "data check")

ROOT = Path(__file__).parents[2]
BLANK = rle(np.zeros((HEIGHT, WIDTH)))
OTHER_SIZE = rle(np.ones((HEIGHT + 2, WIDTH)))


def first(data):
    return data.content["annotations"][0]


def visible(entry) -> int:
    """A frame in which the instance is."""
    return next(t for t, mask in enumerate(entry["segmentations"]) if mask)


def set_mask(data, mask):
    first(data)["segmentations"][visible(first(data))] = mask


def frame_path(data, t=1):
    return data.images / data.content["videos"][0]["file_names"][t]


def resave(path, size):
    Image.open(path).resize(size).save(path)


def resize_video(data):
    for t in range(NUM_FRAMES):
        resave(frame_path(data, t), (WIDTH * 2, HEIGHT * 2))


def rename_video(data, number):
    old = data.content["videos"][0]["id"]
    data.content["videos"][0]["id"] = number
    for entry in data.content["annotations"]:
        if entry["video_id"] == old:
            entry["video_id"] = number


def turn_frame(path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)


def copy_annotation(data, **changes):
    data.content["annotations"].append({**copy.deepcopy(first(data)), **changes})


FAULTS = {
    "annotation is text": (lambda d: d.content["annotations"].append("x"), "not-an-object"),
    "video without id": (lambda d: d.content["videos"][0].pop("id"), "bad-id"),
    "category without id": (lambda d: d.content["categories"].append({"name": "x"}), "bad-id"),
    "category without name": (lambda d: d.content["categories"][0].pop("name"), "no-name"),
    "annotation without id": (lambda d: first(d).pop("id"), "no-id"),
    "annotation id twice": (lambda d: copy_annotation(d), "no-id"),
    "annotation id is text": (lambda d: first(d).update(id="a"), "bad-id"),
    "video id is text": (lambda d: rename_video(d, "clip"), "bad-id"),
    "video id of 65 bits": (lambda d: rename_video(d, 2**64 + 1), "bad-id"),
    "video id negative": (lambda d: rename_video(d, -4), "bad-id"),
    "category id is text": (lambda d: first(d).update(category_id="1"), "bad-id"),
    "video id twice": (
        lambda d: d.content["videos"].append(copy.deepcopy(d.content["videos"][0])),
        "duplicate-id",
    ),
    "category id twice": (
        lambda d: d.content["categories"].append({"id": 1, "name": "again"}),
        "duplicate-id",
    ),
    "no size": (lambda d: d.content["videos"][0].pop("height"), "bad-size"),
    "no frames": (lambda d: d.content["videos"][0].update(file_names=[]), "no-frames"),
    "frame gone": (lambda d: frame_path(d).unlink(), "missing-frame"),
    "all frames gone": (
        lambda d: [frame_path(d, t).unlink() for t in range(NUM_FRAMES)],
        "missing-frame",
    ),
    "frame is text": (lambda d: frame_path(d).write_text("x"), "unreadable-frame"),
    "one frame larger": (lambda d: resave(frame_path(d), (99, 99)), "frame-size"),
    "all frames larger": (resize_video, "frame-size"),
    "listed size wrong": (lambda d: d.content["videos"][0].update(height=99), "frame-size"),
    "unknown video": (lambda d: first(d).update(video_id=99), "unknown-video"),
    "unknown category": (lambda d: first(d).update(category_id=99), "unknown-category"),
    "masks too few": (lambda d: first(d)["segmentations"].pop(), "list-length"),
    "boxes too few": (lambda d: first(d)["bboxes"].pop(), "bad-box"),
    "no boxes": (lambda d: first(d).pop("bboxes"), "bad-box"),
    "mask is a number": (lambda d: set_mask(d, 7), "bad-mask"),
    "runs too long": (
        lambda d: set_mask(d, {"size": [HEIGHT, WIDTH], "counts": [0, 9]}),
        "bad-mask",
    ),
    "counts cut": (lambda d: set_mask(d, {"size": [HEIGHT, WIDTH], "counts": "P"}), "bad-mask"),
    "mask of another size": (lambda d: set_mask(d, OTHER_SIZE), "mask-size"),
    "polygon outside": (lambda d: set_mask(d, [[-9, 2, 30, 2, 30, 40]]), "outside"),
    "empty mask": (lambda d: set_mask(d, BLANK), "empty-mask"),
    "all masks empty": (
        lambda d: first(d).update(segmentations=[BLANK] * NUM_FRAMES),
        "no-mask",
    ),
    "all masks null": (lambda d: first(d).update(segmentations=[None] * NUM_FRAMES), "no-mask"),
    "box without mask": (lambda d: set_mask(d, None), "bad-box"),
    "mask without box": (
        lambda d: first(d)["bboxes"].__setitem__(visible(first(d)), None),
        "bad-box",
    ),
    "same name": (
        lambda d: d.content["categories"].append({"id": 9, "name": "disc"}),
        "duplicate-name",
    ),
    "frame twice": (
        lambda d: d.content["videos"][0]["file_names"].__setitem__(
            1, d.content["videos"][0]["file_names"][0]
        ),
        "repeated-frame",
    ),
    "box elsewhere": (
        lambda d: first(d)["bboxes"].__setitem__(visible(first(d)), [0, 0, 5, 5]),
        "box-mismatch",
    ),
    "area wrong": (
        lambda d: first(d)["areas"].__setitem__(visible(first(d)), 1),
        "area-mismatch",
    ),
    "no areas": (lambda d: first(d).pop("areas"), "area-mismatch"),
    "crowd is a word": (lambda d: first(d).update(iscrowd="no"), "bad-crowd"),
    "crowd is text": (lambda d: first(d).update(iscrowd="0"), "odd-crowd"),
    "frame lies on its side": (lambda d: turn_frame(frame_path(d)), "turned-frame"),
    "category unused": (
        lambda d: d.content["categories"].append({"id": 9, "name": "x"}),
        "unused-category",
    ),
    "video empty": (
        lambda d: d.content.update(
            annotations=[a for a in d.content["annotations"] if a["video_id"] != 1]
        ),
        "empty-video",
    ),
}
UNMENDED = {
    *("duplicate-name", "repeated-frame", "unused-category", "empty-video"),
    *("turned-frame", "leaves-folder"),
}


def run(data, *options) -> tuple[int, list[dict]]:
    actual = data.root / "found.json"
    arguments = ["--annotations", data.annotations, "--images", data.images, "--output", actual]
    code = main([*map(str, arguments), *options])
    return code, json.loads(actual.read_text())


def test_a_sound_file_is_sound(dataset, capsys):
    code, actual = run(dataset, "--decode", "--strict")
    assert (code, actual) == (0, [])
    assert capsys.readouterr().out == "0 errors, 0 warnings\n"


def test_there_is_a_case_for_every_kind():
    elsewhere = {"nothing-listed", "refused", "leaves-folder"}
    assert {kind for _, kind in FAULTS.values()} | elsewhere == ERRORS.keys() | WARNINGS.keys()


def test_what_cannot_be_mended_is_said(dataset, caplog):
    """A name that leads out of the folder is not guessed at, and no video cannot be made one."""
    dataset.content["videos"][0]["file_names"] = [f"../{t}.jpg" for t in range(NUM_FRAMES)]
    findings, _ = check(dataset.content)
    assert [item.kind for item in findings.items] == ["leaves-folder"]
    assert not check(dataset.content, allow_outside=True)[0].items
    dataset.content.update(videos=[], annotations=[])
    path = dataset.save()
    mended = dataset.root / "mended.json"
    assert main(["--annotations", str(path), "--fix", str(mended)]) == 1
    assert "cannot be used even so" in caplog.text


def test_text_ids_are_numbered_and_references_follow(dataset):
    rename_video(dataset, "clip")
    for category in dataset.content["categories"]:
        category["id"] = f"c{category['id']}"
    for entry in dataset.content["annotations"]:
        entry["category_id"] = f"c{entry['category_id']}"
    _, mended = check(copy.deepcopy(dataset.content))
    assert len(mended["annotations"]) == len(dataset.content["annotations"])
    assert not check(mended)[0].num_errors
    names = {category["id"]: category["name"] for category in mended["categories"]}
    before = {category["id"]: category["name"] for category in dataset.content["categories"]}
    for old, new in zip(dataset.content["annotations"], mended["annotations"], strict=True):
        assert before[old["category_id"]] == names[new["category_id"]]
        assert old["segmentations"] == new["segmentations"]


def test_masks_of_another_size_are_scaled_and_too_few_filled_up(dataset):
    entry = first(dataset)
    t = visible(entry)
    half = coco_mask.decode(entry["segmentations"][t])[::2, ::2]
    entry["segmentations"][t] = rle(half)
    other = dataset.content["annotations"][-1]
    other["segmentations"].pop()
    _, mended = check(copy.deepcopy(dataset.content))
    scaled = coco_mask.decode(mended["annotations"][0]["segmentations"][t])
    assert scaled.shape == (HEIGHT, WIDTH)
    assert np.array_equal(scaled, half.repeat(2, axis=0).repeat(2, axis=1))
    kept = mended["annotations"][-1]["segmentations"]
    assert kept == [*other["segmentations"], None]


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_found_and_mended(name, dataset, capsys):
    damage, kind = FAULTS[name]
    damage(dataset)
    path = dataset.save()
    before = path.read_bytes()
    mended = dataset.root / "mended.json"
    code, actual = run(dataset, "--fix", str(mended))
    assert kind in {finding["kind"] for finding in actual}
    assert code == (1 if any(f["kind"] in ERRORS for f in actual) else 0)
    assert f"({kind})" in capsys.readouterr().out
    assert path.read_bytes() == before
    load_annotation_file(mended)  # what the trainer would say
    again, _ = check(json.loads(mended.read_text()), dataset.images)
    assert again.num_errors == 0
    left = {finding.kind for finding in again.items}
    assert left <= UNMENDED and (kind in UNMENDED or kind not in left)
    assert run(dataset, "--strict")[0] == 1


def test_what_mending_keeps(dataset):
    """A frame is gone from a video: its entries go from all lists, the rest stays as it was."""
    frame_path(dataset, 1).unlink()
    dataset.content["info"] = {"year": 2026}
    dataset.save()
    _, mended = check(copy.deepcopy(dataset.content), dataset.images)
    assert mended["info"] == {"year": 2026}
    kept = [0, *range(2, NUM_FRAMES)]
    video = dataset.content["videos"][0]
    assert mended["videos"][0]["file_names"] == [video["file_names"][t] for t in kept]
    assert mended["videos"][0]["length"] == NUM_FRAMES - 1
    for old, new in zip(dataset.content["annotations"], mended["annotations"], strict=True):
        for key in ("segmentations", "bboxes", "areas"):
            values = old[key] if old["video_id"] != 1 else [old[key][t] for t in kept]
            assert new[key] == values
    assert mended["videos"][1:] == dataset.content["videos"][1:]


def test_size_is_taken_from_frames_and_masks_where_they_agree(dataset):
    dataset.content["videos"][0].update(height=99, width=77)
    del dataset.content["videos"][1]["width"]
    _, mended = check(dataset.content, dataset.images)
    assert {(v["height"], v["width"]) for v in mended["videos"]} == {(HEIGHT, WIDTH)}
    assert len(mended["annotations"]) == len(dataset.content["annotations"])


def test_masks_of_the_shape_of_the_frames_are_scaled_to_them(dataset):
    resize_video(dataset)
    _, mended = check(copy.deepcopy(dataset.content), dataset.images)
    assert (mended["videos"][0]["height"], mended["videos"][0]["width"]) == (2 * HEIGHT, 2 * WIDTH)
    assert len(mended["annotations"]) == len(dataset.content["annotations"])
    assert not check(mended, dataset.images)[0].num_errors


def test_masks_that_fit_no_frame_go_with_their_video(dataset):
    for t in range(NUM_FRAMES):
        resave(frame_path(dataset, t), (WIDTH * 2, HEIGHT * 3))
    _, mended = check(dataset.content, dataset.images)
    assert [v["id"] for v in mended["videos"]] == [2, 3, 4, 5, 6]
    assert all(a["video_id"] != 1 for a in mended["annotations"])


def test_cut_frames_are_found_by_decoding(dataset):
    path = frame_path(dataset)
    path.write_bytes(path.read_bytes()[:-300])
    assert run(dataset)[0] == 0
    code, actual = run(dataset, "--decode")
    assert code == 1 and [f["kind"] for f in actual] == ["unreadable-frame"]
    assert str(path.name) in actual[0]["problem"]


def test_without_images_the_file_alone_is_checked(dataset):
    frame_path(dataset).unlink()
    assert main(["--annotations", str(dataset.annotations)]) == 0


def test_public_validation_file_is_sound(dataset):
    del dataset.content["annotations"]
    dataset.save()
    assert run(dataset, "--strict") == (0, [])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from([n for n in FAULTS if "frame" not in n]), max_size=4))
def test_mending_several_faults_leaves_none(names):
    """Without frames, on a small file made here; any combination of faults."""
    square = np.zeros((HEIGHT, WIDTH))
    square[5:20, 8:30] = 1

    def part(number):
        names = [f"{number}/{t}.jpg" for t in range(NUM_FRAMES)]
        video = {"id": number, "height": HEIGHT, "width": WIDTH, "length": NUM_FRAMES}
        entry = {"id": number, "video_id": number, "category_id": 1, "iscrowd": 0}
        lists = {
            "segmentations": [rle(square)] * NUM_FRAMES,
            "bboxes": [[8, 5, 22, 15]] * NUM_FRAMES,
            "areas": [330] * NUM_FRAMES,
        }
        return {**video, "file_names": names}, copy.deepcopy({**entry, **lists})

    videos, annotations = map(list, zip(part(1), part(2), strict=True))
    categories = [{"id": 1, "name": "disc"}]
    damaged = SimpleNamespace(
        content={"videos": videos, "categories": categories, "annotations": annotations}
    )
    for name in names:
        try:
            FAULTS[name][0](damaged)
        except (KeyError, IndexError, StopIteration, AttributeError, TypeError):
            continue  # an earlier fault took away what this one would damage
    findings, mended = check(damaged.content)
    again, twice = check(mended)
    assert again.num_errors == 0 and twice == mended
    assert findings.num_errors or {f.kind for f in findings.items} <= WARNINGS.keys()


def test_the_list_is_cut_and_says_so(dataset, capsys):
    for entry in dataset.content["annotations"]:
        entry["category_id"] = 99
    dataset.save()
    assert main(["--annotations", str(dataset.annotations), "--limit", "2"]) == 0
    out = capsys.readouterr().out
    number = len(dataset.content["annotations"])
    assert f"warning: {number} annotations of unlisted categories, which are left out" in out
    assert f"... and {number - 2} more" in out and out.count("is of category 99 -> removed") == 2


def test_as_a_command(dataset):
    done = subprocess.run(
        [sys.executable, "-m", "seqformer", "data", "check",
         "--annotations", str(dataset.annotations)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "0 errors, 0 warnings\n"), done.stderr


def test_what_cannot_be_checked(dataset, tmp_path, fails):
    cut = tmp_path / "cut.json"
    cut.write_text(dataset.annotations.read_text()[:500])
    results = tmp_path / "results.json"
    results.write_text("[]")
    empty = tmp_path / "empty.json"
    empty.write_text('{"videos": []}')
    assert "does not exist" in fails(main, "--annotations", tmp_path / "nowhere.json")
    assert "not complete JSON" in fails(main, "--annotations", cut)
    assert "is it a results file?" in fails(main, "--annotations", results)
    assert "no list of categories" in fails(main, "--annotations", empty)
    sound = ("--annotations", dataset.annotations)
    assert "image folder" in fails(main, *sound, "--images", tmp_path / "nowhere")
    assert "--decode needs --images" in fails(main, *sound, "--decode")
    assert "--limit" in fails(main, *sound, "--limit", -1)
