"""Several sets as one: order, weights, classes, pseudo-videos, and items that are broken."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqformer.config import AugmentConfig, DataConfig, config_from_dict, config_to_dict, presets
from seqformer.data.loader import build_train_loader
from seqformer.data.sampling import ClipBatchSampler, epoch_order, item_generator
from tests.annotations.test_coco import make_coco

AUGMENT = AugmentConfig(
    short_sides=(40, 48), crop_resize_short_sides=(50, 60), crop_min=36, crop_max=60
)


@pytest.fixture
def joint(small, tmp_path) -> DataConfig:
    """12 frames of videos (categories 3 and 7) and 4 still images mapped to the same two."""
    content = make_coco(tmp_path / "coco", num_images=4)
    content["images"].pop()
    content["annotations"] = [
        {**a, "category_id": {1: 7, 74: 3}[a["category_id"]]}
        for a in content["annotations"]
        if a["category_id"] != 62
    ]
    content["categories"] = [{"id": 7, "name": "Seven"}, {"id": 3, "name": "three"}]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return DataConfig(
        train_images=small.images,
        train_annotations=small.annotations,
        coco_images=tmp_path / "coco" / "train2017",
        coco_annotations=tmp_path / "coco.json",
        annotation_cache=None,
        num_frames=3,
        num_workers=0,
        augment=AUGMENT,
    )


def ids_of(config: DataConfig, epoch: int = 0, **kwargs) -> list[str]:
    loader, _ = build_train_loader(config, seed=1, **kwargs)
    loader.batch_sampler.set_epoch(epoch)
    return [name for batch in loader for name in batch.ids]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=4),
    st.integers(0, 99),
    st.integers(0, 3),
    st.data(),
)
def test_weights_decide_how_often_a_set_is_visited(sizes, seed, epoch, data):
    weights = data.draw(
        st.lists(st.floats(0, 9), min_size=len(sizes), max_size=len(sizes)).filter(
            lambda w: sum(w) > 0.1
        )
    )
    total = sum(sizes)
    order = epoch_order(sizes, weights, seed, epoch)
    assert order.shape == (total, 2)
    starts = np.cumsum([0, *sizes])
    for number, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        visits = order[(order[:, 0] >= starts[number]) & (order[:, 0] < starts[number + 1])]
        assert abs(len(visits) - weight / sum(weights) * total) < 1
        # Every pass over a set is finished before an item comes once more.
        counts = Counter(visits[:, 0].tolist())
        if visits.size:
            assert (
                max(counts.values())
                - min(counts.get(i, 0) for i in range(starts[number], starts[number] + size))
                <= 1
            )
        assert len({tuple(v) for v in visits.tolist()}) == len(visits)
        assert visits[:, 1].max(initial=0) <= max(len(visits) - 1, 0) // size
    np.testing.assert_array_equal(order, epoch_order(sizes, weights, seed, epoch))


def test_without_weights_every_item_comes_once():
    order = epoch_order([5, 0, 7], (), seed=3, epoch=2)
    assert sorted(order[:, 0].tolist()) == list(range(12)) and not order[:, 1].any()


def test_a_repeated_item_is_another_clip():
    sampler = ClipBatchSampler([2, 6], 4, seed=0, weights=(1, 1))
    keys = [key for batch in sampler for key in batch]
    assert {key.repeat for key in keys} == {0, 1}
    draws = {item_generator(0, key.epoch, key.item, key.repeat).random() for key in keys}
    assert len(draws) == len(keys) == 8


def test_videos_and_still_images_make_one_epoch(joint):
    loader, classes = build_train_loader(joint, seed=1)
    assert classes.ids == (3, 7)
    batches = list(loader)
    kinds = Counter(name.split()[0] for batch in batches for name in batch.ids)
    assert kinds == {"video": 12, "image": 4}
    assert {b.images.shape[1] for b in batches} == {3}
    for batch in batches:
        for name, targets in zip(batch.ids, batch.targets, strict=True):
            n, t, height, width = targets["masks"].shape
            assert t == 3 and targets["boxes"].shape == (n, 3, 4) and n >= 1
            assert (height, width) == targets["size"] and targets["boxes"].min() >= 1e-6 * 0.99
            if name.startswith("image"):
                assert sorted(targets["labels"].tolist()) == [0, 1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_global_batch_is_the_same_on_any_number_of_processes(joint, num_workers):
    joint = replace(joint, global_batch_size=6, num_workers=num_workers, sampling_weights=(1, 3))

    def steps(world_size: int) -> list[list[str]]:
        parts = []
        for rank in range(world_size):
            loader, _ = build_train_loader(joint, seed=1, rank=rank, world_size=world_size)
            loader.batch_sampler.set_epoch(1, start_step=1)
            names, count = [b.ids for b in loader], loader.batch_sampler.micro_batches
            parts.append([sum(names[i : i + count], []) for i in range(0, len(names), count)])  # noqa: RUF017
        return [sum(step, []) for step in zip(*parts, strict=True)]  # noqa: RUF017

    alone = steps(1)
    assert len(alone) == 1 and len(alone[0]) == 6
    assert steps(2) == steps(3) == alone


def test_weights_reach_the_loader(joint):
    kinds = Counter(name.split()[0] for name in ids_of(replace(joint, sampling_weights=(0, 1))))
    assert kinds == {"image": 16}
    kinds = Counter(name.split()[0] for name in ids_of(replace(joint, sampling_weights=(1, 1))))
    assert kinds == {"video": 8, "image": 8}


def test_a_further_video_set(joint, small):
    config = replace(
        joint,
        more_images=(small.images,),
        more_annotations=(small.annotations,),
        sampling_weights=(1, 2, 1),
    )
    assert Counter(n.split()[0] for n in ids_of(config)) == {"video": 21, "image": 7}


def test_pseudo_videos_are_not_distorted_again(joint, monkeypatch):
    """Their colours belong to them; the photometric step is for videos alone."""
    from seqformer.data.photometric import PhotometricDistortion

    monkeypatch.setattr(PhotometricDistortion, "apply", lambda self, frame: 1 / 0)
    assert len(ids_of(replace(joint, sampling_weights=(0, 1)))) == 16


def test_more_than_25_instances_are_too_many(joint, tmp_path, one_line):
    content = json.loads(joint.coco_annotations.read_text())
    first = content["annotations"][0]
    for image in (1, 2, 3, 4):
        content["annotations"] += [
            {**first, "id": 1000 * image + i, "image_id": image} for i in range(25)
        ]
    joint.coco_annotations.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"coco\.json: 100 clips in a row"):
        ids_of(replace(joint, sampling_weights=(0, 1)))
    content["annotations"] = [
        a for a in content["annotations"] if a["image_id"] != 3 or a["id"] < 1000
    ]
    joint.coco_annotations.write_text(json.dumps(content))
    assert set(ids_of(replace(joint, sampling_weights=(0, 1)))) == {"image 3"}


def test_sets_that_do_not_belong_together_are_refused(joint, small, tmp_path, one_line, caplog):
    content = json.loads(joint.coco_annotations.read_text())

    def changed(categories) -> DataConfig:
        content["categories"] = categories
        joint.coco_annotations.write_text(json.dumps(content))
        return joint

    other = [{"id": 7, "name": "frog"}, {"id": 3, "name": "owl"}]
    with pytest.raises(ValueError, match="map COCO to the edition") as error:
        build_train_loader(changed(other), seed=0)
    one_line(error.value)
    few = [{"id": 7, "name": "seven"}, {"id": 3, "name": "tree"}]
    with caplog.at_level(logging.WARNING):
        build_train_loader(changed(few), seed=0)
    assert "3 (tree, not three)" in caplog.text
    content["annotations"][0]["category_id"] = 4
    with pytest.raises(ValueError, match=r"which the videos do not have: 4 \(four\)") as error:
        build_train_loader(changed([*few, {"id": 4, "name": "four"}]), seed=0)
    one_line(error.value)

    second = tmp_path / "second.json"
    small.content["categories"][0]["name"] = "eight"
    second.write_text(json.dumps(small.content))
    config = replace(
        joint,
        coco_images=None,
        coco_annotations=None,
        more_images=(small.images,),
        more_annotations=(second,),
    )
    with pytest.raises(ValueError, match=r"category 7 is 'seven' in .* but 'eight' in") as error:
        build_train_loader(config, seed=0)
    one_line(error.value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_item_is_skipped_and_named(joint, small, caplog, num_workers):
    small.content["videos"][0]["file_names"][3] = "v11/gone.jpg"
    small.save()
    broken = joint.coco_images / f"{2:012d}.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    config = replace(joint, max_broken_share=1.0, num_workers=num_workers, num_frames=5)
    with caplog.at_level(logging.WARNING):
        ids = ids_of(config)
    assert len(ids) == 16 and "image 2" not in ids
    assert "v11/gone.jpg does not exist" in caplog.text and str(broken) in caplog.text
    assert all(message.startswith("skipped: ") for message in caplog.messages)
    # What takes its place does not depend on the process that finds out.
    assert ids == ids_of(replace(config, num_workers=0))


def test_too_many_broken_items_stop_the_run(joint, one_line):
    for image in (1, 2, 3, 4):
        (joint.coco_images / f"{image:012d}.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="100 of 100 items in a row are broken") as error:
        ids_of(replace(joint, max_broken_share=1.0))
    assert ".jpg is not an image" in one_line(error.value)
    for image in (1, 3, 4):
        (joint.coco_images / f"{image:012d}.jpg").unlink()
    (joint.coco_images / f"{1:012d}.jpg").write_bytes(b"no picture")
    with pytest.raises((ValueError, FileNotFoundError)):
        ids_of(replace(joint, max_broken_share=0.1))


def test_the_share_counts_over_epochs(joint):
    broken = joint.coco_images / f"{2:012d}.jpg"
    broken.write_bytes(b"no picture")
    # 1 of 16 items and more, as an item that takes another's place may be the same one.
    with pytest.raises(ValueError, match=r"clips could not be read, more than .* 0\.01 allows"):
        ids_of(joint)
    loader, _ = build_train_loader(replace(joint, max_broken_share=0.2), seed=1)
    for epoch in range(3):
        loader.batch_sampler.set_epoch(epoch)
        assert len(list(loader)) == 8
    assert loader.num_drawn == 48 + loader.num_broken and loader.num_broken >= 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"coco_images": None}, "both --data.coco-images and --data.coco-annotations"),
        ({"more_images": (1,)}, "one folder per file"),
        ({"sampling_weights": (1.0,)}, "must be 2 numbers"),
        ({"sampling_weights": (0.0, 0.0)}, "not all 0"),
        ({"max_broken_share": 1.5}, r"in 0\.\.1"),
        ({"global_batch_size": -1}, "at least 0"),
    ],
)
def test_settings_that_make_no_sense(joint, changes, expected):
    with pytest.raises(ValueError, match=expected):
        replace(joint, **changes)


def test_published_presets_are_joint_and_come_back_from_json():
    for name, (_, config) in presets().items():
        is_joint = name in ("r50", "r101", "x101", "swin_l")
        assert (config.data.coco_annotations is not None) == is_joint, name
        assert config_from_dict(type(config), config_to_dict(config)) == config
    data = replace(DataConfig(), more_images=("a",), more_annotations=("b",))
    again = config_from_dict(DataConfig, config_to_dict(data))
    assert [str(p) for p in again.more_images] == ["a"]
