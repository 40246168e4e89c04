"""The drawn data set: the same for the same arguments, well formed, and as hard as asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqformer.annotations.packed_masks import decode_segmentation
from seqformer.annotations.ytvis import load_annotation_file
from seqformer.config import AugmentConfig, DataConfig
from seqformer.data.frames import read_video_frame
from seqformer.data.loader import build_train_loader
from seqformer.data.synthetic import make_synthetic_dataset
from seqformer.data.synthetic_drawing import SHAPES, SyntheticConfig

SIZES = {"num_train": 6, "num_val": 3, "num_frames": 6, "height": 64, "width": 96, "seed": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "set"
    make_synthetic_dataset(root, **SIZES, config=SyntheticConfig(leave_share=1.0))
    return root


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_same_arguments_same_bytes(root, tmp_path):
    make_synthetic_dataset(tmp_path / "again", **SIZES, config=SyntheticConfig(leave_share=1.0))
    first, second = files_of(root), files_of(tmp_path / "again")
    assert first == second
    assert len(first) == 3 + 9 * 6
    make_synthetic_dataset(
        tmp_path / "other", **SIZES | {"seed": 5}, config=SyntheticConfig(leave_share=1.0)
    )
    assert files_of(tmp_path / "other") != first
    frame = "{}/JPEGImages/video_0000/00000.jpg"
    assert first[frame.format("train")] != first[frame.format("val")]


def test_layout_is_what_the_loader_reads(root):
    for split, count in (("train", 6), ("val", 3)):
        path = root / "annotations" / f"instances_{split}.json"
        annotations = load_annotation_file(path, require_annotations=True)
        assert [c["name"] for c in annotations.categories] == list(SyntheticConfig().shapes)
        assert [c["id"] for c in annotations.categories] == [1, 2, 3, 4, 5]
        assert len(annotations.videos) == count
        for video in annotations.videos:
            assert 1 <= len(video.instances) <= 3
            frame = read_video_frame(root / split / "JPEGImages", video, video.length - 1)
            assert frame.shape == (64, 96, 3)
    config = DataConfig(
        train_images=root / "train" / "JPEGImages",
        train_annotations=root / "annotations" / "instances_train.json",
        num_workers=0,
        num_frames=3,
        augment=AugmentConfig(short_sides=(64,)),
    )
    loader, classes = build_train_loader(config, seed=0)
    assert classes.names == SyntheticConfig().shapes
    assert len(list(loader)) == 18


def test_masks_boxes_and_areas_agree_and_never_overlap(root):
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    covered: dict[tuple[int, int], np.ndarray] = {}
    for annotation in content["annotations"]:
        for t in range(6):
            segmentation = annotation["segmentations"][t]
            if segmentation is None:
                assert annotation["bboxes"][t] is None and annotation["areas"][t] is None
                continue
            mask = decode_segmentation(segmentation["counts"], 64, 96)
            assert mask.sum() == annotation["areas"][t] >= 16
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert annotation["bboxes"][t] == [
                columns[0],
                rows[0],
                columns[-1] - columns[0] + 1,
                rows[-1] - rows[0] + 1,
            ]
            total = covered.setdefault((annotation["video_id"], t), np.zeros((64, 96), int))
            total += mask
    assert max(total.max() for total in covered.values()) == 1


def test_one_object_leaves_each_video_and_returns(root):
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    returning = set()
    for annotation in content["annotations"]:
        shown = [s is not None for s in annotation["segmentations"]]
        first, last = shown.index(True), len(shown) - shown[::-1].index(True)
        if not all(shown[first:last]):
            returning.add(annotation["video_id"])
    assert returning == {1, 2, 3, 4, 5, 6}


def test_pictures_show_what_the_masks_say(tmp_path):
    """On plain ground, a mask is where the picture differs from the ground."""
    config = SyntheticConfig(
        num_objects=(1, 1),
        background_texture=0.0,
        object_texture=0.0,
        noise=0.0,
        contrast=0.4,
        leave_share=0.0,
        shapes=tuple(SHAPES),
        size=(0.5, 0.7),
    )
    paths = make_synthetic_dataset(
        tmp_path / "plain", **SIZES | {"num_train": 24, "num_frames": 2}, config=config
    )
    annotations = load_annotation_file(paths.train_annotations)
    names = set()
    for video in annotations.videos:
        (instance,) = video.instances
        names.add(annotations.categories[instance.category_id - 1]["name"])
        for t in range(2):
            image = read_video_frame(paths.train_images, video, t).astype(float)
            ground = np.median(image.reshape(-1, 3), axis=0)
            is_object = np.linalg.norm(image - ground, axis=-1) > 0.2 * 255 * np.sqrt(3)
            mask = decode_segmentation(instance.segmentations[t], 64, 96)
            assert (is_object & mask).sum() / (is_object | mask).sum() > 0.8
    assert len(names) >= 6


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_fit_their_circle_and_have_an_area(name):
    y, x = np.mgrid[-1.2:1.2:241j, -1.2:1.2:241j]
    inside = SHAPES[name](x, y) <= 0
    assert np.hypot(x, y)[inside].max() < 1.02
    assert 0.25 < inside.sum() * 0.01**2 / np.pi <= 1.01


def test_silhouettes_are_clearly_different():
    """The best overlap of two default classes, over all turns, is far from a match."""
    y, x = np.mgrid[-1:1:81j, -1:1:81j]
    for name in SyntheticConfig().shapes:
        for other in SyntheticConfig().shapes:
            if other <= name:
                continue
            still = SHAPES[name](x, y) <= 0
            best = 0.0
            for angle in np.linspace(0, 2 * np.pi, 60, endpoint=False):
                c, s = np.cos(angle), np.sin(angle)
                turned = SHAPES[other](c * x - s * y, s * x + c * y) <= 0
                best = max(best, (still & turned).sum() / (still | turned).sum())
            assert best < 0.8, (name, other)


def test_reuse_and_refusal(root, tmp_path, one_line):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    make_synthetic_dataset(root, **SIZES, config=SyntheticConfig(leave_share=1.0))
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    with pytest.raises(ValueError, match="other settings") as error:
        make_synthetic_dataset(root, **SIZES)
    assert str(root) in one_line(error.value)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="already holds other files") as error:
        make_synthetic_dataset(tmp_path / "full", **SIZES)
    one_line(error.value)
    with pytest.raises(ValueError, match="is a file"):
        make_synthetic_dataset(tmp_path / "full" / "thesis.txt", **SIZES)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image.Image, "save", stop)
        make_synthetic_dataset(tmp_path / "set", **SIZES)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set").mkdir()  # an empty folder is fine
    make_synthetic_dataset(tmp_path / "set", **SIZES | {"num_train": 1, "num_val": 1})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


@pytest.mark.parametrize(
    "changes", [{"num_train": 0}, {"num_frames": 0}, {"height": 8}, {"seed": -1}]
)
def test_impossible_sizes(tmp_path, changes, one_line):
    with pytest.raises(ValueError) as error:
        make_synthetic_dataset(tmp_path / "set", **SIZES | changes)
    one_line(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"shapes": ("disc", "blob")},
        {"shapes": ()},
        {"shapes": ("disc", "disc")},
        {"num_objects": (0, 2)},
        {"size": (0.5, 0.3)},
        {"contrast": 1.5},
        {"background_texture": -0.1},
        {"noise": -1.0},
    ],
)
def test_impossible_settings(changes, one_line):
    with pytest.raises(ValueError) as error:
        replace(SyntheticConfig(), **changes)
    one_line(error.value)


@pytest.mark.parametrize(
    ("num_frames", "height", "width"), [(1, 32, 32), (2, 33, 180), (5, 180, 40), (12, 40, 64)]
)
def test_odd_sizes(tmp_path, num_frames, height, width):
    config = SyntheticConfig(num_objects=(3, 3), leave_share=1.0, size=(0.3, 1.5), speed=0.5)
    sizes = {"num_frames": num_frames, "height": height, "width": width}
    paths = make_synthetic_dataset(tmp_path / "set", **SIZES | sizes, config=config)
    videos = load_annotation_file(paths.train_annotations, require_annotations=True).videos
    assert all(v.length == num_frames for v in videos)
