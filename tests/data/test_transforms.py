"""Augmentation: each rule on a case worked out by hand, and what must hold for any clip."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqformer.config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig
from seqformer.data import transforms
from seqformer.data.clip_masks import ClipMasks, DenseMasks
from seqformer.data.photometric import PhotometricDistortion, shift_saturation_and_hue
from seqformer.data.transforms import (
    Clip,
    augment,
    crop,
    drop_lost,
    flip,
    resize,
    resize_and_crop,
    resized_size,
    to_tensors,
)


def make_clip(height: int, width: int, boxes: list[list[list[int] | None]], seed: int = 0) -> Clip:
    """Noise with rectangular instances: boxes[n][t] is (x0, y0, x1, y1) or None."""
    num_frames = len(boxes[0])
    rng = np.random.default_rng(seed)
    masks = np.zeros((len(boxes), num_frames, height, width), bool)
    boxes_xyxy = np.zeros((len(boxes), num_frames, 4), np.float32)
    for n, track in enumerate(boxes):
        for t, box in enumerate(track):
            if box is not None:
                boxes_xyxy[n, t] = box
                masks[n, t, box[1] : box[3], box[0] : box[2]] = True
    return Clip(
        frames=rng.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8),
        labels=np.arange(len(boxes)),
        boxes_xyxy=boxes_xyxy,
        masks=ClipMasks.of(DenseMasks(masks.swapaxes(0, 1))),
    )


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def assert_same(a: Clip, b: Clip) -> None:
    np.testing.assert_array_equal(np.array(a.frames), np.array(b.frames))
    for name in ("labels", "boxes_xyxy"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(a.masks.decode(), b.masks.decode())


def test_flip_by_hand():
    clip = make_clip(8, 10, [[[1, 2, 4, 6], None]])
    flipped = flip(clip)
    assert flipped.boxes_xyxy[0, 0].tolist() == [6, 2, 9, 6]
    assert box_of(flipped.masks.decode()[0, 0]) == [6, 2, 9, 6]
    np.testing.assert_array_equal(flipped.frames[1][3, 0], clip.frames[1][3, 9])
    # An absent box has no area after the flip either.
    assert flipped.boxes_xyxy[0, 1].tolist() == [10, 0, 10, 0]
    assert drop_lost(flipped).boxes_xyxy[0, 1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("size", "short_side", "limit", "expected"),
    [
        ((480, 854), 360, None, (360, 640)),  # 640.5 is cut
        ((854, 480), 360, None, (640, 360)),
        ((720, 1280), 512, 768, (432, 768)),  # 910 > 768: the short side becomes 432
        ((1280, 720), 512, 768, (768, 432)),
        ((720, 1280), 288, 768, (288, 512)),
        ((500, 500), 512, 768, (512, 512)),
        ((100, 1000), 288, 768, (77, 770)),  # parity: rounding 76.8 up exceeds the limit
        ((100, 1010), 288, 768, (76, 767)),
        ((480, 854), 600, None, (600, 1067)),
        ((480, 853), 480, 768, (432, 767)),
        ((1, 2000), 288, 768, (1, 2000)),  # a side never vanishes
    ],
)
def test_size_rule_by_hand(size, short_side, limit, expected):
    assert resized_size(*size, short_side, limit) == expected


def test_resize_by_hand():
    clip = make_clip(4, 6, [[[0, 0, 3, 2]], [[3, 2, 6, 4]]])
    large = resize(clip, 8, 18)
    assert large.boxes_xyxy[:, 0].tolist() == [[0, 0, 9, 4], [9, 4, 18, 8]]
    assert box_of(large.masks.decode()[0, 0]) == [0, 0, 9, 4]
    assert box_of(large.masks.decode()[1, 0]) == [9, 4, 18, 8]
    assert large.masks.decode().sum() == 2 * 36


def test_resize_of_masks_is_pytorchs():
    masks = np.random.default_rng(0).random((1, 2, 37, 53)) < 0.5
    clip = make_clip(37, 53, [[[2, 3, 40, 30]] * 2])
    clip = replace(clip, masks=ClipMasks.of(DenseMasks(masks.swapaxes(0, 1))))
    for height, width in [(20, 29), (37, 61), (90, 111), (36, 53)]:
        nearest = torch.nn.functional.interpolate(
            torch.from_numpy(masks).float(), (height, width), mode="nearest"
        )
        resized = resize(clip, height, width)
        np.testing.assert_array_equal(resized.masks.decode(), nearest.numpy() > 0.5)


def test_crop_by_hand():
    clip = make_clip(10, 12, [[[1, 1, 5, 4]], [[6, 5, 12, 10]], [[0, 0, 3, 10]]])
    cut = crop(clip, top=2, left=3, height=6, width=8)
    assert cut.size == (6, 8)
    np.testing.assert_array_equal(cut.frames, np.array(clip.frames)[:, 2:8, 3:11])
    assert cut.boxes_xyxy[:, 0].tolist() == [[0, 0, 2, 2], [3, 3, 8, 6], [0, 0, 0, 6]]
    assert box_of(cut.masks.decode()[1, 0]) == [3, 3, 8, 6]
    assert drop_lost(cut).labels.tolist() == [0, 1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_resize_and_crop_in_one_is_pixel_by_pixel_the_two(data):
    height, width = data.draw(st.integers(5, 90)), data.draw(st.integers(5, 90))
    new_height, new_width = data.draw(st.integers(5, 90)), data.draw(st.integers(5, 90))
    h, w = data.draw(st.integers(1, new_height)), data.draw(st.integers(1, new_width))
    window = (
        data.draw(st.integers(0, new_height - h)),
        data.draw(st.integers(0, new_width - w)),
        h,
        w,
    )
    clip = make_clip(height, width, [[[1, 1, 4, 5]] * 2], seed=data.draw(st.integers(0, 99)))
    # Tables alone: OpenCV's conversion to HSV rounds by the position of a pixel in its row.
    changes = [
        PhotometricDistortion(brightness=20.0, contrast=1.3),
        PhotometricDistortion(channels=(2, 0, 1)),
    ]
    both = resize_and_crop(clip, (new_height, new_width), window, changes)
    coloured = replace(clip, frames=[c.apply(f) for c, f in zip(changes, clip.frames, strict=True)])
    assert_same(both, crop(resize(coloured, new_height, new_width), *window))


def test_an_instance_with_one_box_left_keeps_all_its_frames():
    clip = make_clip(8, 8, [[[1, 1, 4, 4], [2, 2, 5, 5], None], [None, None, None]])
    # A box without width, without height, and one turned inside out.
    boxes = clip.boxes_xyxy.copy()
    boxes[0, 1] = [4, 2, 4, 6]
    boxes[1] = [[3, 5, 6, 5], [6, 1, 2, 4], [8, 0, 8, 0]]
    left = drop_lost(replace(clip, boxes_xyxy=boxes))
    assert left.labels.tolist() == [0]
    assert left.boxes_xyxy.tolist() == [[[1, 1, 4, 4], [0, 0, 0, 0], [0, 0, 0, 0]]]
    # parity: the mask of the voided frame stays.
    assert left.masks.decode().shape == (1, 3, 8, 8) and left.masks.decode()[0, 1].sum() == 9


def test_nothing_left_keeps_its_shapes():
    left = drop_lost(make_clip(8, 9, [[None, None]]))
    assert left.labels.shape == (0,)
    assert left.boxes_xyxy.shape == (0, 2, 4) and left.masks.decode().shape == (0, 2, 8, 9)
    images, targets = to_tensors(left)
    assert targets["boxes"].shape == (0, 2, 4) and images.shape == (2, 3, 8, 9)


def test_to_tensors_by_hand():
    clip = make_clip(8, 10, [[[2, 2, 6, 4], None]])
    clip.frames[1][3, 4] = (255, 0, 51)
    images, targets = to_tensors(drop_lost(clip))
    assert images.dtype == torch.float32 and images.shape == (2, 3, 8, 10)
    expected = (torch.tensor([1.0, 0.0, 0.2]) - torch.tensor(IMAGENET_MEAN)) / torch.tensor(
        IMAGENET_STD
    )
    torch.testing.assert_close(images[1, :, 3, 4], expected)
    torch.testing.assert_close(
        targets["boxes"], torch.tensor([[[0.4, 0.375, 0.4, 0.25], [1e-6] * 4]])
    )
    assert targets["labels"].dtype == torch.int64 and targets["masks"].dtype == torch.bool
    assert targets["size"] == (8, 10)
    assert targets["masks"].sum() == 8


def pixel(*rgb: int) -> np.ndarray:
    return np.array([[rgb]], np.uint8)


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        (PhotometricDistortion(), (3, 128, 255), (3, 128, 255)),
        (PhotometricDistortion(brightness=10.75), (0, 100, 200), (10, 110, 210)),
        # parity: beyond 0..255 values wrap around: 282 - 256, and -22 + 256.
        (PhotometricDistortion(brightness=32.0), (250, 0, 223), (26, 32, 255)),
        (PhotometricDistortion(brightness=-32.0), (10, 31, 32), (234, 255, 0)),
        (PhotometricDistortion(contrast=1.5), (200, 100, 33), (300 - 256, 150, 49)),
        (PhotometricDistortion(contrast=0.5), (255, 1, 0), (127, 0, 0)),
        # (200 + 20) * 1.5 = 330
        (PhotometricDistortion(brightness=20.0, contrast=1.5), (200, 0, 0), (74, 30, 30)),
        (PhotometricDistortion(channels=(2, 0, 1)), (1, 2, 3), (3, 1, 2)),
        # Saturation: value stays, the other channels move away from it or towards it.
        (PhotometricDistortion(saturation=0.5), (200, 101, 1), (200, 150, 100)),  # 150.5, 100.5
        (PhotometricDistortion(saturation=1.5), (200, 161, 121), (200, 141, 81)),  # 141.5, 81.5
        # parity: beyond full saturation channels turn negative and wrap: -50.5 is cut to -50.
        (PhotometricDistortion(saturation=1.5), (101, 52, 0), (101, 27, 206)),
        (PhotometricDistortion(saturation=1.5), (77, 77, 77), (77, 77, 77)),
        # parity: +16 degrees in the swapped channel order turns red towards blue.
        (PhotometricDistortion(hue=16.0), (200, 0, 0), (200, 0, 53)),
        (PhotometricDistortion(hue=-16.0), (200, 0, 0), (200, 53, 0)),
        # The step over 0 degrees: blue is 0 there.
        (PhotometricDistortion(hue=-16.0), (0, 0, 200), (53, 0, 200)),
        (PhotometricDistortion(hue=16.0), (0, 0, 200), (0, 53, 200)),
    ],
)
def test_colours_by_hand(change, before, after):
    np.testing.assert_array_equal(change.apply(pixel(*before)), pixel(*after))


def test_contrast_before_or_after_the_colours():
    # First: 200 * 1.25 = 250 wraps only if brightness had pushed it; both orders agree up to the
    # cut to integers, because saturation and hue are linear in value.
    first = PhotometricDistortion(contrast=1.25, contrast_first=True, saturation=0.5, hue=18.0)
    last = replace(first, contrast_first=False)
    colours = np.random.default_rng(0).integers(0, 200, (20, 20, 3), dtype=np.uint8)
    gap = first.apply(colours).astype(int) - last.apply(colours)
    assert np.abs(gap).max() <= 1


def test_turning_colours_equals_colorsys():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (40, 30, 3)).astype(np.float32)
    colours[:3, :, 1] = colours[:3, :, 0]  # ties between channels
    colours[3:5, :, 1] = colours[3:5, :, 2]
    for saturation, hue in [(0.6, 14.0), (0.9, -17.0), (0.5, 0.0), (1.0, 18.0)]:
        turned = shift_saturation_and_hue(colours, saturation, hue)
        for y, x in np.ndindex(40, 30):
            blue, green, red = colours[y, x].tolist()  # parity: RGB taken for BGR
            h, s, v = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
            red, green, blue = colorsys.hsv_to_rgb((h + hue / 360) % 1, s * saturation, v)
            expected = [255 * blue, 255 * green, 255 * red]
            np.testing.assert_allclose(turned[y, x], expected, atol=2e-3)


def test_colours_of_a_window_are_those_of_the_frame():
    """Up to the last bit of the conversion to HSV, which can move the cut to integers."""
    frame = np.random.default_rng(0).integers(0, 256, (300, 401, 3), dtype=np.uint8)
    for change in (
        PhotometricDistortion(saturation=1.3, hue=11.0),
        PhotometricDistortion(contrast=1.4, hue=-17.0),
    ):
        whole, window = change.apply(frame), change.apply(frame[7:200, 13:350])
        gap = (whole[7:200, 13:350].astype(int) - window + 1) % 256
        assert gap.max() <= 2 and (gap != 1).mean() < 1e-3


def test_colours_are_drawn_per_frame_in_their_ranges():
    clip = replace(
        make_clip(48, 64, [[[1, 2, 30, 40]] * 8]), frames=[np.full((48, 64, 3), 120, np.uint8)] * 8
    )
    changed = augment(clip, replace(PLAIN, photometric=True), np.random.default_rng(1)).frames
    assert len(changed) == 8 and changed[0].shape == (48, 64, 3) and changed[0].dtype == np.uint8
    assert len({f.tobytes() for f in changed}) > 2

    draws = [PhotometricDistortion.draw(np.random.default_rng(s)) for s in range(2000)]
    for name, (low, high) in {
        "brightness": (-32, 32),
        "contrast": (0.5, 1.5),
        "saturation": (0.5, 1.5),
        "hue": (-18, 18),
    }.items():
        values = [v for d in draws if (v := getattr(d, name)) is not None]
        assert 0.45 < len(values) / 2000 < 0.55, name
        assert low <= min(values) < low + 0.02 * (high - low), name
        assert high - 0.02 * (high - low) < max(values) <= high, name
    orders = [d.channels for d in draws if d.channels is not None]
    assert 0.45 < len(orders) / 2000 < 0.55 and len(set(orders)) == 6
    assert 0.45 < sum(d.contrast_first for d in draws) / 2000 < 0.55


PLAIN = AugmentConfig(
    flip_prob=0.0, photometric=False, crop_prob=0.0, short_sides=(48,), max_long_side=200
)


def test_augmentation_can_be_turned_off():
    clip = make_clip(48, 64, [[[1, 2, 30, 40], [5, 5, 9, 9]]])
    assert_same(augment(clip, PLAIN, np.random.default_rng(0)), clip)


def test_augmentation_does_not_touch_its_input():
    clip = make_clip(48, 64, [[[1, 2, 30, 40], [5, 5, 9, 9]]])
    before = make_clip(48, 64, [[[1, 2, 30, 40], [5, 5, 9, 9]]])
    config = AugmentConfig(short_sides=(40,), crop_resize_short_sides=(50,), crop_min=30)
    for seed in range(10):
        augment(clip, config, np.random.default_rng(seed))
    assert_same(clip, before)


def test_crop_branch_sizes_and_positions(monkeypatch):
    crops = []

    def record(clip, size, window, changes):
        crops.append((size, *window))
        return resize_and_crop(clip, size, window, changes)

    monkeypatch.setattr(transforms, "resize_and_crop", record)
    config = replace(
        PLAIN, crop_prob=1.0, crop_resize_short_sides=(40, 60), crop_min=38, crop_max=58
    )
    clip = make_clip(48, 64, [[[0, 0, 64, 48]]])
    for seed in range(300):
        out = augment(clip, config, np.random.default_rng(seed))
        assert min(out.size) == 48
    assert {c[0] for c in crops} == {(40, 53), (60, 80)}
    for size, top, left, height, width in crops:
        assert 38 <= height <= min(58, size[0]) and 38 <= width <= min(58, size[1])
        assert 0 <= top <= size[0] - height and 0 <= left <= size[1] - width
    small = [c for c in crops if c[0] == (40, 53)]
    assert {c[3] for c in small} == {38, 39, 40}
    assert {c[4] for c in small} == set(range(38, 54))
    assert any(c[1] + c[3] == c[0][0] for c in small), "never touches the bottom"


def test_published_ranges():
    clip = make_clip(90, 160, [[[0, 0, 160, 90]]])
    sizes = set()
    for seed in range(60):
        config = AugmentConfig(photometric=False, crop_prob=0.0)
        sizes.add(augment(clip, config, np.random.default_rng(seed)).size)
    # 768 is reached from 432 on.
    expected = {(s, int(s * 160 / 90)) for s in (288, 320, 352, 392, 416)} | {(432, 768)}
    assert sizes == expected


@st.composite
def clips(draw: st.DrawFn) -> Clip:
    height, width = draw(st.integers(24, 70)), draw(st.integers(24, 70))
    num_frames = draw(st.integers(1, 3))

    def box() -> list[int]:
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        return [x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))]

    tracks = [
        [box() if draw(st.booleans()) else None for _ in range(num_frames)]
        for _ in range(draw(st.integers(1, 3)))
    ]
    return make_clip(height, width, tracks)


@settings(max_examples=60, deadline=None)
@given(clips())
def test_flipping_twice_changes_nothing(clip):
    assert_same(flip(flip(clip)), clip)


@settings(max_examples=100, deadline=None)
@given(clips(), st.integers(20, 90), st.booleans(), st.integers(0, 1000))
def test_boxes_and_masks_stay_together(clip, short_side, with_crop, seed):
    config = AugmentConfig(
        photometric=False,
        short_sides=(short_side,),
        max_long_side=130,
        crop_prob=float(with_crop),
        crop_resize_short_sides=(30, 50),
        crop_min=20,
        crop_max=40,
    )
    out = augment(clip, config, np.random.default_rng(seed))
    assert len(out.labels) == len(out.boxes_xyxy) == len(out.masks.decode())
    assert out.masks.decode().shape[1:] == np.array(out.frames).shape[:3]
    height, width = out.size
    assert out.boxes_xyxy.min(initial=0) >= 0
    assert (out.boxes_xyxy <= np.array([width, height] * 2) + 1e-3).all()
    # Each resize to the nearest pixel shifts an edge by less than a pixel; the second resize of
    # the crop branch also enlarges the shift of the first.
    tolerance = 1.0 + with_crop * short_side / 20
    masks = out.masks.decode().reshape(-1, height, width)
    for box, mask in zip(out.boxes_xyxy.reshape(-1, 4), masks, strict=True):
        if mask.any():
            assert np.abs(box - box_of(mask)).max() < tolerance + 1e-3
        elif box.any():
            assert min(box[2] - box[0], box[3] - box[1]) < tolerance + 1e-3
