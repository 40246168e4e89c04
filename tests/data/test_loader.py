"""Clips, batches and the training loader, end to end on real files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seqformer.annotations.ytvis import load_annotation_file
from seqformer.boxes import cxcywh_to_xyxy
from seqformer.config import AugmentConfig, DataConfig
from seqformer.data import clip_dataset
from seqformer.data.class_map import build_class_map
from seqformer.data.clip_dataset import ConcatClipDataset, Sample
from seqformer.data.clips import VideoClips
from seqformer.data.collate import collate
from seqformer.data.loader import build_train_loader
from seqformer.data.sampling import SampleKey
from seqformer.structures import ClipBatch

PLAIN = AugmentConfig(
    flip_prob=0.0, photometric=False, crop_prob=0.0, short_sides=(48,), max_long_side=200
)
STRONG = AugmentConfig(
    short_sides=(40, 48, 56), crop_resize_short_sides=(50, 60), crop_min=36, crop_max=60
)


def config_of(small, **changes) -> DataConfig:
    config = DataConfig(
        train_images=small.images,
        train_annotations=small.annotations,
        annotation_cache=None,
        num_frames=3,
        num_workers=0,
        augment=STRONG,
    )
    return replace(config, **changes)


def batches_of(config: DataConfig, epoch: int = 0, start: int = 0, **kwargs) -> list[ClipBatch]:
    loader, _ = build_train_loader(config, seed=3, **kwargs)
    loader.batch_sampler.set_epoch(epoch, start)
    return list(loader)


def assert_equal_batches(a: list[ClipBatch], b: list[ClipBatch]) -> None:
    assert [x.ids for x in a] == [x.ids for x in b]
    for left, right in zip(a, b, strict=True):
        assert torch.equal(left.images, right.images)
        assert torch.equal(left.padding_mask, right.padding_mask)
        for s, t in zip(left.targets, right.targets, strict=True):
            assert s["size"] == t["size"]
            assert all(torch.equal(s[k], t[k]) for k in ("labels", "boxes", "masks"))


def test_content_of_a_clip_without_augmentation(small):
    loader, classes = build_train_loader(config_of(small, augment=PLAIN), seed=0)
    assert classes.ids == (3, 7)
    seen = 0
    for batch in loader:
        assert batch.images.shape == (2, 3, 3, 64, 64) and batch.images.dtype == torch.float32
        for images, padding, targets, name in zip(
            batch.images, batch.padding_mask, batch.targets, batch.ids, strict=True
        ):
            video, frames = name.removeprefix("video ").split(", frames ")
            frames = [int(f) for f in frames.split()]
            assert targets["size"] == (48, 64)
            assert not padding[:48, :64].any() and padding[48:].all()
            assert not images[..., 48:, :].any()
            # The crowd of video 5 is not among them; outputs are in order of category id.
            assert targets["labels"].tolist() == [1, 0]
            for t, f in enumerate(frames):
                pixels = np.asarray(Image.open(small.images / f"v{video}/{f:05d}.jpg"))
                mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
                expected = torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1))
                torch.testing.assert_close(
                    images[t, :, :48], expected.float(), atol=1e-5, rtol=1e-5
                )
                moving = [4 + 3 * f, 6 + f, 24 + 3 * f, 22 + f]
                partly = [30, 20 + f, 44, 30 + f]
                for n, box in enumerate((moving, partly)):
                    mask = torch.zeros(48, 64, dtype=torch.bool)
                    if n == 1 and f == 2:
                        assert targets["boxes"][n, t].tolist() == pytest.approx([1e-6] * 4)
                    else:
                        mask[box[1] : box[3], box[0] : box[2]] = True
                        scale = torch.tensor([64, 48, 64, 48])
                        xyxy = cxcywh_to_xyxy(targets["boxes"][n, t]) * scale
                        torch.testing.assert_close(xyxy, torch.tensor(box).float())
                    assert torch.equal(targets["masks"][n, t], mask)
            seen += 1
    assert seen == 12


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(small, num_workers):
    config = config_of(small)
    assert_equal_batches(
        batches_of(replace(config, num_workers=num_workers), epoch=1), batches_of(config, epoch=1)
    )


def test_cache_changes_nothing(small):
    config = config_of(small)
    cached, _ = build_train_loader(replace(config, cache_frames=True), seed=3)
    for epoch in (0, 1, 0):
        cached.batch_sampler.set_epoch(epoch)
        assert_equal_batches(list(cached), batches_of(config, epoch))
    assert len(cached.dataset.sets[0]._cache) == 12


def test_epochs_differ_and_repeat_with_persistent_workers(small):
    loader, _ = build_train_loader(config_of(small, num_workers=1), seed=3)
    epochs = []
    for epoch in (0, 1, 0):
        loader.batch_sampler.set_epoch(epoch)
        epochs.append(list(loader))
    assert_equal_batches(epochs[0], epochs[2])
    assert epochs[0][0].ids != epochs[1][0].ids


def test_resume_gives_the_remaining_batches(small):
    config = config_of(small)
    whole = batches_of(config, epoch=2)
    assert len(whole) == 6
    assert_equal_batches(batches_of(config, epoch=2, start=4), whole[4:])


def test_two_processes_share_the_batches_of_one(small):
    alone = batches_of(config_of(small, batch_size=4))
    parts = [batches_of(config_of(small), rank=r, world_size=2) for r in (0, 1)]
    for step, (a, b) in enumerate(zip(*parts, strict=True)):
        assert a.ids + b.ids == alone[step].ids
        for mine, theirs in zip(a.targets + b.targets, alone[step].targets, strict=True):
            assert torch.equal(mine["boxes"], theirs["boxes"])


def test_micro_batches_of_a_process_make_up_its_share(small):
    (whole,) = batches_of(config_of(small, batch_size=12))
    config = config_of(small, batch_size=4, global_batch_size=12)
    parts = [batches_of(config, rank=rank, world_size=2) for rank in (0, 1)]
    assert [len(batch.ids) for part in parts for batch in part] == [3, 3, 3, 3]
    assert [name for part in parts for batch in part for name in batch.ids] == whole.ids


def test_reading_leaves_the_global_generator_alone(small):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches_of(config_of(small))
    assert torch.equal(torch.get_rng_state(), before)


def test_other_seeds_give_other_clips(small):
    first, _ = build_train_loader(config_of(small), seed=0)
    second, _ = build_train_loader(config_of(small), seed=1)
    assert next(iter(first)).ids != next(iter(second)).ids


def test_clip_without_instance_gives_way_to_another(small):
    small.content["annotations"] = [
        a for a in small.content["annotations"] if a["video_id"] == 5 and not a["iscrowd"]
    ]
    small.save()
    loader, _ = build_train_loader(config_of(small, batch_size=4), seed=0)
    ids = [name for batch in loader for name in batch.ids]
    assert len(loader) == 3 and len(ids) == 12
    assert all(name.startswith("video 5,") for name in ids)


def test_endless_search_for_an_instance_ends(small, monkeypatch):
    monkeypatch.setattr(clip_dataset, "MAX_TRIES", 3)
    for annotation in small.content["annotations"]:
        annotation["segmentations"] = [None] * 6
    small.save()
    loader, _ = build_train_loader(config_of(small), seed=0)
    with pytest.raises(ValueError, match=r"instances\.json: 3 clips in a row showed no instance"):
        next(iter(loader))


def test_only_crowds(small):
    for annotation in small.content["annotations"]:
        annotation["iscrowd"] = 1
    small.save()
    with pytest.raises(ValueError, match="only crowd"):
        build_train_loader(config_of(small), seed=0)


def test_set_smaller_than_a_step(small):
    with pytest.raises(ValueError, match=r"12 frames or pictures, fewer than the 14 .*batch-size"):
        build_train_loader(config_of(small, batch_size=7), seed=0, world_size=2)
    assert len(batches_of(config_of(small, batch_size=12))) == 1
    assert len(batches_of(config_of(small, batch_size=7))) == 1


def test_single_frame_video(small):
    video = small.content["videos"][0]
    video["file_names"] = video["file_names"][:1]
    small.content["videos"] = [video]
    small.content["annotations"] = small.content["annotations"][:1]
    for key in ("bboxes", "segmentations"):
        small.content["annotations"][0][key] = small.content["annotations"][0][key][:1]
    small.save()
    (batch,) = batches_of(config_of(small, num_frames=5, batch_size=1, augment=PLAIN))
    assert batch.ids == ["video 11, frames 0 0 0 0 0"]
    assert torch.equal(batch.images[:, 0], batch.images[:, 4])


def test_missing_images_are_found_at_once(small, tmp_path, one_line):
    with pytest.raises(FileNotFoundError, match=r"--data\.train-images") as error:
        build_train_loader(config_of(small, train_images=tmp_path / "nowhere"), seed=0)
    one_line(error.value)
    with pytest.raises(FileNotFoundError, match=r"--data\.train-images") as error:
        build_train_loader(config_of(small, train_images=tmp_path), seed=0)
    assert "video 11" in one_line(error.value)


def test_a_broken_mask_is_found_before_the_first_step(small, one_line):
    for annotation in small.content["annotations"]:
        for segmentation in annotation["segmentations"][3:]:
            if isinstance(segmentation["counts"], str):
                segmentation["counts"] = segmentation["counts"][:-1] + "a"
    small.save()
    with pytest.raises(ValueError, match=r"annotations entry 0: the mask of frame 3 has") as error:
        batches_of(config_of(small))
    one_line(error.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_later_frame_missing_is_named(small, num_workers):
    small.content["videos"][0]["file_names"][3] = "v11/gone.jpg"
    small.save()
    with pytest.raises(ValueError, match=r"v11/gone\.jpg does not exist"):
        batches_of(config_of(small, num_workers=num_workers, num_frames=5))


def test_published_layout_keeps_category_ids(small):
    loader, classes = build_train_loader(config_of(small, class_layout="published"), seed=0)
    assert classes.num_classes == 42
    labels = {int(v) for batch in loader for t in batch.targets for v in t["labels"]}
    assert labels == {3, 7}


def test_items_are_all_frames_of_all_videos(small):
    annotations = load_annotation_file(small.annotations)
    classes = build_class_map(annotations, "from_data")
    videos = VideoClips(annotations, small.images, classes, config_of(small, augment=PLAIN))
    clips = ConcatClipDataset([videos], seed=0)
    assert len(clips) == 12
    for item in range(12):
        video, frames = clips[SampleKey(0, item)].id.removeprefix("video ").split(", frames ")
        assert int(video) == (11, 5)[item // 6]
        assert str(item % 6) in frames.split()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_single_frames_come_first_and_clips_after_them(small, num_workers):
    """Each is the item's own frame; what comes afterwards is what would have come anyway."""
    plain = config_of(small, augment=PLAIN, num_workers=num_workers)
    batches = batches_of(replace(plain, single_frame_steps=2))
    assert [batch.images.shape[:2] for batch in batches] == [(2, 1)] * 2 + [(2, 3)] * 4
    assert all(len(t["boxes"][0]) == 1 for batch in batches[:2] for t in batch.targets)
    assert_equal_batches(batches[2:], batches_of(plain)[2:])
    loader, _ = build_train_loader(replace(plain, single_frame_steps=9), seed=0)
    names = [name for batch in loader for name in batch.ids]
    assert sorted(names) == sorted(
        f"video {video}, frames {frame}" for video in (11, 5) for frame in range(6)
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=3))
def test_collate_pads_right_and_bottom_to_32(sizes):
    samples = [
        Sample(torch.full((2, 3, h, w), i + 1.0), {"size": (h, w)}, str(i))
        for i, (h, w) in enumerate(sizes)
    ]
    batch = collate(samples)
    height, width = batch.images.shape[-2:]
    for side, largest in ((height, max(h for h, _ in sizes)), (width, max(w for _, w in sizes))):
        assert side % 32 == 0 and 0 <= side - largest < 32
    assert batch.images.shape[:3] == (len(sizes), 2, 3)
    assert batch.padding_mask.shape == (len(sizes), height, width)
    for i, (h, w) in enumerate(sizes):
        inside = torch.zeros(height, width, dtype=torch.bool)
        inside[:h, :w] = True
        assert torch.equal(~batch.padding_mask[i], inside)
        assert torch.equal(batch.images[i], (inside * (i + 1.0)).expand(2, 3, -1, -1))
    assert [t["size"] for t in batch.targets] == sizes
    assert batch.ids == [str(i) for i in range(len(sizes))]
