"""Other layouts, drawn to disk here, converted and read back pixel by pixel."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from seqformer.annotations.packed_masks import decode_segmentation
from seqformer.annotations.ytvis import load_annotation_file
from seqformer.cli.main import run_command
from seqformer.tools.check import check

main = partial(run_command, "data convert")

HEIGHT, WIDTH = 24, 36


@pytest.fixture
def labels():
    """Number of the instance per pixel [T, H, W]: 1 moves, 2 is absent from frame 1, 7 is late."""
    maps = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    for t in range(3):
        maps[t, 2:10, 3 + t : 12 + t] = 1
        if t != 1:
            maps[t, 12:20, 4:9] = 2
    maps[2, 5:23, 20:31] = 7
    return maps


def save_palette(folder, maps, name="{:05d}.png"):
    folder.mkdir(parents=True)
    for t, numbers in enumerate(maps):
        image = Image.fromarray(numbers, "P")
        image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
        image.save(folder / name.format(t))


def save_frames(folder, number, suffix="jpg", name="{:05d}"):
    folder.mkdir(parents=True)
    for t in range(number):
        image = Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * t, np.uint8))
        image.save(folder / f"{name.format(t)}.{suffix}")


def tracks(path):
    """Of a converted file: (video's first frame, class name) -> masks [T, H, W] in file order."""
    content = load_annotation_file(path)
    names = {c["id"]: c["name"] for c in content.categories}
    return [
        (
            video.file_names,
            names[i.category_id],
            np.stack([decode_segmentation(s, video.height, video.width) for s in i.segmentations]),
        )
        for video in content.videos
        for i in video.instances
    ]


def assert_sound(path, images):
    findings, _ = check(json.loads(path.read_text()), images)
    assert [f for f in findings.items if f.kind != "unused-category"] == []


def test_palette_masks(labels, tmp_path):
    save_palette(tmp_path / "masks" / "ant", labels[:2] * 3)
    labels[0, 0, 0] = 255  # not judged
    save_palette(tmp_path / "masks" / "bear", labels)
    save_frames(tmp_path / "images" / "bear", 5)  # two frames have no mask
    save_frames(tmp_path / "images" / "ant", 2, "png")
    names = tmp_path / "labels.json"
    names.write_text(json.dumps({"bear": {"1": "bear", "7": "tree"}}))
    out = tmp_path / "out.json"
    command = ["davis", "--masks", str(tmp_path / "masks"), "--images", str(tmp_path / "images")]
    assert main([*command, "--labels", str(names), "--output", str(out)]) == 0
    actual = tracks(out)
    ant, bear = [f"ant/0000{t}.png" for t in (0, 1)], [f"bear/0000{t}.jpg" for t in range(3)]
    expected = [
        (ant, "object", labels[:2] == 1),
        (ant, "object", labels[:2] == 2),
        (bear, "bear", labels == 1),
        (bear, "object", labels == 2),
        (bear, "tree", labels == 7),
    ]
    assert [(list(files), name) for files, name, _ in actual] == [e[:2] for e in expected]
    for (_, _, got), (_, _, truth) in zip(actual, expected, strict=True):
        assert (got == truth).all()
    assert_sound(out, tmp_path / "images")
    raw = json.loads(out.read_text())
    assert [c["name"] for c in raw["categories"]] == ["bear", "tree", "object"]


def test_binary_masks_are_one_instance(labels, tmp_path):
    """DAVIS 2016: grey, 0 and 255; and without a folder of frames."""
    (tmp_path / "masks" / "bear").mkdir(parents=True)
    for t, numbers in enumerate(labels):
        mask = Image.fromarray((numbers == 1).astype(np.uint8) * 255)
        mask.save(tmp_path / "masks" / "bear" / f"{t}.png")
    out = tmp_path / "out.json"
    command = ["davis", "--masks", str(tmp_path / "masks"), "--category", "bear"]
    assert main([*command, "--output", str(out)]) == 0
    [(files, name, masks)] = tracks(out)
    assert list(files) == ["bear/0.jpg", "bear/1.jpg", "bear/2.jpg"] and name == "bear"
    assert (masks == (labels == 1)).all()


def test_mots_masks(labels, tmp_path, caplog):
    """16-bit: cars 1000 and 1001, pedestrian 2005, a region to ignore."""
    values = np.zeros(labels.shape, np.uint16)
    for number, value in ((1, 1000), (2, 2005), (7, 1001)):
        values[labels == number] = value
    values[0, 22:, :4] = 10_000
    folder = tmp_path / "instances" / "0002"
    folder.mkdir(parents=True)
    for t, numbers in enumerate(values):
        Image.fromarray(numbers).save(folder / f"{t:06d}.png")
    save_frames(tmp_path / "image_02" / "0002", 3, "png", "{:06d}")
    out = tmp_path / "out.json"
    command = ["mots", "--masks", str(tmp_path / "instances"), "--output", str(out)]
    assert main([*command, "--images", str(tmp_path / "image_02")]) == 0
    actual = tracks(out)
    assert [name for _, name, _ in actual] == ["car", "car", "pedestrian"]
    for (_, _, got), number in zip(actual, (1, 7, 2), strict=True):
        assert (got == (labels == number)).all()
    assert_sound(out, tmp_path / "image_02")
    assert "regions to ignore, in 1 frames" in caplog.text
    assert main([*command, "--classes", "1", "bus", "2", "cyclist"]) == 0
    assert {name for _, name, _ in tracks(out)} == {"bus", "cyclist"}


def coco_video(labels):
    """Images in the wrong order; a polygon, run lengths, a crowd, and a box without mask."""
    images = [
        {"id": 10 + t, "video_id": 5, "frame_id": t, "file_name": f"v/{t}.jpg",
         "height": HEIGHT, "width": WIDTH}
        for t in (2, 0, 1)
    ]  # fmt: skip
    annotations = []
    for number, category_id in ((1, 3), (2, 8), (7, 3)):
        for t in range(3):
            mask = np.asfortranarray(labels[t] == number, np.uint8)
            if mask.any():
                rle = coco_mask.encode(mask)
                segmentation = {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": 10 + t, "category_id": category_id,
                     "instance_id": number, "segmentation": segmentation,
                     "iscrowd": int(number == 7)}
                )  # fmt: skip
    annotations[0]["segmentation"] = [[3, 2, 12, 2, 12, 10, 3, 10]]
    annotations.append(
        {"id": 99, "image_id": 10, "category_id": 3, "instance_id": 4, "bbox": [1, 1, 2, 2]}
    )
    return {
        "videos": [{"id": 5, "name": "v"}, {"id": 6, "name": "empty"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}],
    }


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("key", ["instance_id", "track_id"])
def test_coco_video(key, labels, tmp_path, caplog):
    content = coco_video(labels)
    for entry in content["annotations"]:
        entry[key] = entry.pop("instance_id")
    save_frames(tmp_path / "v", 3, name="{}")
    out = tmp_path / "out.json"
    source = write(tmp_path / "coco.json", content)
    assert main(["coco-video", "--annotations", source, "--output", str(out)]) == 0
    actual = tracks(out)
    assert [(list(f), name) for f, name, _ in actual] == [
        (["v/0.jpg", "v/1.jpg", "v/2.jpg"], name) for name in ("cat", "dog", "cat")
    ]
    for (_, _, got), number in zip(actual, (1, 2, 7), strict=True):
        assert (got == (labels == number)).all()
    raw = json.loads(out.read_text())
    assert [a["iscrowd"] for a in raw["annotations"]] == [0, 0, 1]
    assert "1 annotations have a box but no mask" in caplog.text
    assert "video 6 has no images" in caplog.text
    assert_sound(out, tmp_path)


def set_entry(key, index, **changes):
    return lambda content: content[key][index].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "no list of images"),
        (lambda c: c["images"].append(3), "images entry 3 is not an object"),
        (set_entry("images", 0, video_id=77), "is of video 77"),
        (set_entry("images", 0, id=10), "has the id 10 of an earlier image"),
        (set_entry("images", 0, height=None), "no height and width"),
        (set_entry("images", 0, height=50), "all must have one size"),
        (lambda c: c["images"][0].pop("frame_id"), "no frame_id or frame_index or frame"),
        (lambda c: c["images"][0].pop("file_name"), "has no file_name"),
        (set_entry("annotations", 0, image_id=77), "is of image 77"),
        (set_entry("annotations", 0, category_id=77), "is of category 77"),
        (lambda c: c["annotations"][0].pop("instance_id"), "no instance_id or track_id"),
        (set_entry("annotations", 1, image_id=10), "another mask in the same image"),
        (set_entry("annotations", 0, segmentation=[[1, 2]]), "annotations entry 0: the mask"),
        (
            set_entry("annotations", 0, segmentation={"size": [9, 9], "counts": [81]}),
            "the mask has 9 x 9 pixels, its image 24 x 36",
        ),
        (lambda c: c.update(videos=[], images=[], annotations=[]), "nothing was found"),
    ],
)
def test_bad_coco_video(change, message, labels, tmp_path, fails):
    content = coco_video(labels)
    del content["videos"][1], content["annotations"][-1]  # both are warned about
    change(content)
    source = write(tmp_path / "coco.json", content)
    out = tmp_path / "out.json"
    assert message in fails(main, "coco-video", "--annotations", source, "--output", out)
    assert not out.exists()


def test_bad_masks(labels, tmp_path, fails):
    masks = tmp_path / "masks"
    command = ("davis", "--masks", masks, "--output", tmp_path / "out.json")
    assert "does not exist" in fails(main, *command)
    masks.mkdir()
    assert "holds no .png masks" in fails(main, *command)
    save_palette(masks / "bear", labels)
    images = tmp_path / "images"
    save_frames(images / "bear", 2)
    assert "bear/00002" in fails(main, *command, "--images", images)
    for text, message in (('{"bear": 3}', "must be like"), ("{", "not complete JSON")):
        (tmp_path / "labels.json").write_text(text)
        assert message in fails(main, *command, "--labels", tmp_path / "labels.json")
    (tmp_path / "labels.json").write_text('{"wolf": {"1": "wolf"}}')
    assert "video 'wolf'" in fails(main, *command, "--labels", tmp_path / "labels.json")
    broken = masks / "bear" / "00001.png"
    for content, message in (
        (np.zeros((9, 9), np.uint8), "has 9 x 9 pixels, the first one of its video 24 x 36"),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), "has colours (RGB)"),
    ):
        Image.fromarray(content).save(broken)
        assert message in fails(main, *command)
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])
    assert "00001.png" in fails(main, *command)
    broken.write_bytes(b"text")
    assert "00001.png is not an image" in fails(main, *command)


def test_values_of_no_mots_class(labels, tmp_path, fails):
    save_palette(tmp_path / "masks" / "0002", labels)
    message = fails(main, "mots", "--masks", tmp_path / "masks", "--output", tmp_path / "o.json")
    assert "pixels of the value 1, class 0" in message and "--classes" in message


def test_void_is_void_in_every_frame(labels, tmp_path):
    """Grey masks, of which one frame holds nothing but void, and one video nothing else."""
    labels[1] = 0
    labels[:, 0, :4] = 255
    for name, maps in (("bear", labels), ("cat", np.where(labels == 255, labels, 0))):
        (tmp_path / "masks" / name).mkdir(parents=True)
        for t, numbers in enumerate(maps):
            Image.fromarray(numbers).save(tmp_path / "masks" / name / f"{t}.png")
    out = tmp_path / "out.json"
    assert main(["davis", "--masks", str(tmp_path / "masks"), "--output", str(out)]) == 0
    actual = tracks(out)
    assert {files[0] for files, _, _ in actual} == {"bear/0.jpg"}
    for (_, _, got), number in zip(actual, (1, 2, 7), strict=True):
        assert (got == (labels == number)).all()


def test_one_crowd_frame_makes_no_crowd(labels, tmp_path, caplog):
    content = coco_video(labels)
    own = [entry for entry in content["annotations"] if entry["instance_id"] == 1]
    own[0]["iscrowd"], own[1]["iscrowd"] = 1, "0"
    out = tmp_path / "out.json"
    source = write(tmp_path / "coco.json", content)
    assert main(["coco-video", "--annotations", source, "--output", str(out)]) == 0
    assert [a["iscrowd"] for a in json.loads(out.read_text())["annotations"]] == [0, 0, 1]
    assert "instance 1 of video 5 is a crowd in 1 of 3 frames, so it is none" in caplog.text
