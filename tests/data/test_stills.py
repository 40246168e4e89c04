"""Training clips of single pictures in COCO layout, and what is said of files that do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqformer.annotations.coco_categories import coco_names
from seqformer.config import AugmentConfig, DataConfig
from seqformer.data.loader import build_train_loader, load_sets

PLAIN = AugmentConfig(
    flip_prob=0, photometric=False, short_sides=(40,), max_long_side=1333, crop_prob=0
)


def square(left: float, top: float, side: float, **changes) -> dict:
    right, bottom = left + side, top + side
    return {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
        "bbox": [left, top, side, side],
        "area": side * side,
        **changes,
    }


def runs(left: int, top: int, side: int) -> dict:
    mask = np.zeros((40, 60), bool)
    mask[top : top + side, left : left + side] = True
    flat = mask.T.flatten()
    changes = np.flatnonzero(np.diff(flat.astype(int))) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": [40, 60], "counts": counts}


@pytest.fixture
def coco(tmp_path) -> DataConfig:
    """Three pictures of 40 x 60 pixels; the second has a crowd alone, the third nothing."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    images = []
    for number in (1, 2, 3):
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 40, "width": 60})
    content = {
        "images": images,
        "annotations": [
            square(10, 5, 20, id=1),
            square(30, 10, 8, id=2, category_id=90, segmentation=runs(30, 10, 8)),
            square(0, 0, 30, id=3, iscrowd=1, segmentation=runs(0, 0, 30)),
            square(0, 0, 30, id=4, iscrowd=1, image_id=2, segmentation=runs(0, 0, 30)),
        ],
        "categories": [{"id": i, "name": name} for i, name in coco_names().items()],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return DataConfig(
        layout="stills",
        class_layout="published",
        train_images=folder,
        train_annotations=tmp_path / "instances.json",
        annotation_cache=None,
        num_frames=1,
        batch_size=1,
        num_workers=0,
        augment=PLAIN,
    )


def changed(config: DataConfig, change) -> DataConfig:
    content = json.loads(config.train_annotations.read_text())
    change(content)
    file = config.train_annotations.with_name("changed.json")
    file.write_text(json.dumps(content))
    return replace(config, train_annotations=file)


def the_clip(config: DataConfig):
    (clips,), _ = load_sets(config)
    assert len(clips) == 1
    clip, name = clips.load_clip(0, np.random.default_rng(0))
    return clip, name


def test_coco_has_eighty_names():
    names = coco_names()
    assert len(names) == 80 and max(names) == 90
    assert [names[i] for i in (1, 13, 44, 67, 90)] == [
        *("person", "stop sign", "bottle", "dining table", "toothbrush"),
    ]


def test_crowds_and_pictures_without_instances_are_left_out(coco):
    clip, name = the_clip(coco)
    assert name == "image 1" and clip.labels.tolist() == [1, 90]
    masks = clip.masks.decode()[:, 0]
    assert masks[0, 5:25, 10:30].all() and masks[0].sum() == 400
    assert masks[1, 10:18, 30:38].all() and masks[1].sum() == 64
    assert clip.boxes_xyxy[1, 0].tolist() == [30, 10, 38, 18]


@pytest.mark.parametrize(("layout", "count"), [("published", 91), ("from_data", 80)])
def test_outputs_of_both_layouts(coco, layout, count):
    _, classes = load_sets(replace(coco, class_layout=layout))
    assert classes.num_classes == count
    names = dict(zip(classes.ids, classes.names, strict=True))
    assert names[90] == "toothbrush"
    assert classes.index_of[90] == (90 if count == 91 else 79)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1"])
def test_pictures_of_any_mode_are_what_pillow_makes_of_them(coco, mode):
    suffix = "jpg" if mode in ("L", "CMYK") else "png"
    path = coco.train_images / f"1.{suffix}"
    Image.open(coco.train_images / "1.png").convert(mode).save(path)
    clip, _ = the_clip(changed(coco, lambda c: c["images"][0].update(file_name=path.name)))
    np.testing.assert_array_equal(clip.frames[0], np.asarray(Image.open(path).convert("RGB")))


def test_several_frames_make_pseudo_videos(coco):
    (clips,), _ = load_sets(replace(coco, num_frames=3))
    clip, _ = clips.load_clip(0, np.random.default_rng(0))
    assert len(clip.frames) == 3
    single, _ = clips.load_clip(0, np.random.default_rng(0), is_single=True)
    assert len(single.frames) == single.masks.decode().shape[1] == 1


def test_a_batch_of_pictures(coco):
    loader, classes = build_train_loader(coco, seed=0)
    loader.batch_sampler.set_epoch(0)
    (batch,) = loader
    assert batch.images.shape[:3] == (1, 1, 3) and batch.ids == ["image 1"]
    assert not batch.padding_mask[0, :40, :60].any()
    assert classes.num_classes == 91


def drop(key):
    return lambda content: content.pop(key)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: (c.pop("images"), c.update(videos=[])), "lists videos .* and no images"),
        (drop("annotations"), "has no annotations; an annotation file in COCO layout"),
        (lambda c: c.update(annotations=c["annotations"][2:]), "no image with an instance"),
        (lambda c: c["annotations"][0].update(category_id=12), "annotation 1 has category_id 12"),
        (
            lambda c: c.update(categories=[{"id": i, "name": f"n{i}"} for i in range(1, 91)]),
            r"another edition of classes than COCO: 1 \(n1\), .* --data.class-layout from_data",
        ),
        (
            lambda c: c["categories"].append({"id": 91, "name": "hair brush"}),
            r"category ids \[91\] do not fit the published layout of 91 outputs; .* from_data",
        ),
        (lambda c: c["images"][0].update(file_name="gone.png"), "gone.png .* does not exist"),
        (
            lambda c: c["annotations"][1].update(segmentation={"size": [40, 60], "counts": [7]}),
            "annotation 2: .* add up to 7 pixels instead of 2400",
        ),
    ],
)
def test_files_that_do_not_fit_are_named_in_a_sentence(coco, change, expected):
    with pytest.raises((ValueError, FileNotFoundError), match=expected) as error:
        load_sets(changed(coco, change))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_folder_are_named_with_their_option(coco):
    with pytest.raises(FileNotFoundError, match=r"absent\.json .* --data\.train-annotations"):
        load_sets(replace(coco, train_annotations=Path("absent.json")))
    with pytest.raises(FileNotFoundError, match=r"folder absent .*--data\.train-images"):
        load_sets(replace(coco, train_images=Path("absent")))


def test_stills_stand_alone(coco):
    with pytest.raises(ValueError, match=r"leave out --data\.more-images and"):
        replace(coco, coco_images=Path("a"), coco_annotations=Path("b"))
