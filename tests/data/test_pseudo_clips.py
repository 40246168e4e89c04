"""Pseudo-videos: each step on a case worked out by hand, and masks and boxes that stay together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqformer.config import AugmentConfig
from seqformer.data.clip_masks import ClipMasks
from seqformer.data.pseudo_clips import (
    StillChange,
    affine_matrix,
    blur_kernel,
    boxes_of_ids,
    boxes_of_masks,
    condense,
    perspective_matrix,
    pseudo_video,
)
from seqformer.data.transforms import Clip, augment


def pixel(*rgb: int) -> np.ndarray:
    return np.array([[rgb]], np.uint8)


def apply_to_point(matrix: np.ndarray, x: float, y: float) -> tuple[float, float]:
    moved = matrix @ [x, y, 1]
    return tuple((moved[:2] / (moved[2] if len(moved) == 3 else 1)).round(6).tolist())


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        (StillChange(brightness=40), (250, 0, 100), (255, 40, 140)),  # clipped
        (StillChange(brightness=-40), (250, 0, 100), (210, 0, 60)),
        # Saturation 255 / 2 falls by 5 / 255: 200 - 200 * (128 - 5) / 255 = 103.5
        (StillChange(hue_saturation=-1), (200, 100, 100), (200, 101, 101)),
        # Grey has saturation 0; 5 of it makes the hue, 0 + 5 / 255 of a turn, just visible.
        (StillChange(hue_saturation=5), (200, 200, 200), (200, 196, 196)),
        (StillChange(hue_saturation=-5), (200, 200, 200), (200, 200, 200)),
        # A hue step is 2 degrees: 5 / 255 of a turn is 7 degrees, cut to 3 steps; 255 * 6 / 60.
        (StillChange(hue_saturation=5), (255, 0, 0), (255, 25, 0)),
        (StillChange(hue_saturation=-5), (255, 0, 0), (255, 5, 31)),  # back over red to pink
        (StillChange(brightness=-55, hue_saturation=5), (255, 55, 55), (200, 20, 0)),
    ],
)
def test_colours_by_hand(change, before, after):
    np.testing.assert_allclose(
        change.change_colours(pixel(*before)).astype(int), pixel(*after), atol=1
    )


def test_perspective_by_hand():
    corners = np.array([[0.1, 0.05], [0.2, 0], [0, 0.1], [0.05, 0.25]])
    matrix = perspective_matrix(corners, 200, 100)
    for inner, outer in [
        ((20, 5), (0, 0)),
        ((160, 0), (200, 0)),
        ((200, 90), (200, 100)),
        ((10, 75), (0, 100)),
    ]:
        assert apply_to_point(matrix, *inner) == pytest.approx(outer, abs=1e-3)


def test_rotation_and_shift_by_hand():
    # About the centre (10, 5) of 21 x 11 pixels; a quarter turn clockwise takes right to down.
    turn = affine_matrix(90.0, 0.0, 21, 11)
    assert apply_to_point(turn, 10, 5) == (10, 5)
    assert apply_to_point(turn, 12, 5) == (10, 7)
    # One draw for both axes: a tenth of 21 and of 11 pixels, rounded.
    shift = affine_matrix(0.0, 0.1, 21, 11)
    assert apply_to_point(shift, 3, 4) == (5, 5)


def test_shift_moves_image_and_ids_and_leaves_black():
    image = np.full((10, 20, 3), 9, np.uint8)
    image[4, 6] = 200
    ids = np.zeros((10, 20), np.uint8)
    ids[4, 6] = 3
    moved, moved_ids = StillChange(shift=-0.1).apply(image, ids)  # two left, one up
    assert (moved[3, 4] == 200).all() and moved_ids[3, 4] == 3
    assert moved_ids.sum() == 3
    assert not moved[:, -2:].any() and not moved[-1].any() and (moved[:-1, :-2] >= 9).all()


def test_blur_by_hand():
    vertical = blur_kernel(9, 0.0, 0.0)
    np.testing.assert_allclose(vertical[:, 4], 1 / 9, rtol=1e-6)
    assert vertical.sum() == pytest.approx(1) and not np.delete(vertical, 4, axis=1).any()
    horizontal = blur_kernel(9, 90.0, 0.0)
    np.testing.assert_allclose(horizontal, vertical.T, atol=1e-5)
    fading = blur_kernel(11, 0.0, 1.0)[:, 5]
    np.testing.assert_allclose(fading, np.linspace(1, 0, 11) / 5.5, rtol=1e-5, atol=1e-7)
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 10] = 90
    ids = (image[..., 0] > 0).astype(np.uint8)
    blurred, same = StillChange(blur=(9, 0.0, 0.0)).apply(image, ids)
    assert (blurred[6:15, 10] == 10).all() and blurred.sum() == 9 * 30
    np.testing.assert_array_equal(same, ids)  # masks are not blurred


def test_later_instances_own_overlaps():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :3, :3] = masks[1, 1:, 1:] = masks[2, 2, 2] = True
    assert condense(masks).tolist() == [[1, 1, 1, 0], [1, 2, 2, 2], [1, 2, 3, 2], [0, 2, 2, 2]]
    assert condense(np.ones((300, 1, 1), bool)).item() == 300


def test_boxes_are_first_and_last_pixel():
    masks = np.zeros((3, 6, 8), bool)
    masks[0, 1:4, 2:7] = True
    masks[1, 5, 0] = True  # parity: one pixel has a box without area
    expected = [[2, 1, 6, 3], [0, 5, 0, 5], [0, 0, 0, 0]]
    assert boxes_of_masks(masks).tolist() == expected
    assert boxes_of_ids(condense(masks), 3).tolist() == expected


def test_draws_have_the_published_ranges():
    draws = [StillChange.draw(np.random.default_rng(seed)) for seed in range(3000)]
    on = [(d.brightness is not None, d.hue_saturation is not None) for d in draws]
    assert (False, False) not in on  # at least one of the two
    assert on.count((True, True)) / 3000 == pytest.approx(0.5, abs=0.03)
    assert on.count((True, False)) / 3000 == pytest.approx(0.25, abs=0.03)
    brightness = {d.brightness for d in draws} - {None}
    assert (min(brightness), max(brightness), len(brightness)) == (-40, 40, 81)
    assert {d.hue_saturation for d in draws} - {None} == set(range(-5, 6))
    corners = np.array([d.corners for d in draws])
    assert corners.min() >= 0 and np.sqrt((corners**2).mean()) == pytest.approx(0.08, abs=0.003)
    for name, limit in (("rotation", 20), ("shift", 0.1)):
        values = np.array([getattr(d, name) for d in draws])
        assert -limit <= values.min() < -0.98 * limit and 0.98 * limit < values.max() <= limit
    blurs = [d.blur for d in draws if d.blur is not None]
    assert len(blurs) / 3000 == pytest.approx(0.25, abs=0.03)
    sides = [side for side, _, _ in blurs]
    assert set(sides) == {9, 11} and sides.count(9) / len(sides) == pytest.approx(0.5, abs=0.07)


def ellipses(height: int, width: int, count: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    masks = []
    for _ in range(count):
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        rx, ry = rng.uniform(4, width / 3), rng.uniform(4, height / 3)
        masks.append(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1)
    return np.array(masks)


@pytest.mark.parametrize("num_frames", [1, 2, 5, 8])
def test_the_picture_is_one_frame_at_a_random_place(num_frames):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    masks = ellipses(40, 60, 2, rng)
    places = set()
    for seed in range(40):
        frames, boxes, clip_masks = pseudo_video(
            image, masks, num_frames, np.random.default_rng(seed)
        )
        assert len(frames) == num_frames and boxes.shape == (2, num_frames, 4)
        (place,) = [t for t, frame in enumerate(frames) if np.array_equal(frame, image)]
        places.add(place)
        decoded = ClipMasks.of(clip_masks).decode()
        np.testing.assert_array_equal(decoded[:, place], masks)  # overlaps are kept
        others = np.delete(decoded, place, axis=1)
        assert not others.all(axis=0).any()  # elsewhere one owner per pixel
    assert places == set(range(num_frames))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(40, 90), st.integers(40, 90))
def test_boxes_stay_with_the_masks(seed, height, width):
    """Equal after the warps; after flip and resize, up to a pixel before and one after it."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    frames, boxes, masks = pseudo_video(image, ellipses(height, width, 3, rng), 4, rng)
    decoded = ClipMasks.of(masks).decode()
    for n, t in np.ndindex(3, 4):
        np.testing.assert_array_equal(boxes[n, t], boxes_of_masks(decoded[n, t][None])[0])
    # Enlarged, because shrinking to the nearest pixel can lose the tip of a mask.
    config = AugmentConfig(
        photometric=False, short_sides=(90, 100, 130), max_long_side=400, crop_prob=0.0
    )
    out = augment(Clip(frames, np.arange(3), boxes, ClipMasks.of(masks)), config, rng)
    # parity: the published box ends at the index of the last pixel, not after it.
    tolerance = 1.01 + min(out.size) / min(height, width)
    out_masks = out.masks.decode().reshape(-1, *out.size)
    for box, mask in zip(out.boxes_xyxy.reshape(-1, 4), out_masks, strict=True):
        if mask.any() and box.any():
            assert np.abs(box - boxes_of_masks(mask[None])[0]).max() <= tolerance


def test_warped_masks_follow_the_image():
    """An instance painted white is white where its warped mask is, but for its rim."""
    rng = np.random.default_rng(3)
    masks = ellipses(120, 160, 1, rng)
    image = np.repeat((masks[0] * 255).astype(np.uint8)[..., None], 3, axis=-1)
    for seed in range(20):
        change = StillChange.draw(np.random.default_rng(seed))
        change = replace(change, blur=None, brightness=None, hue_saturation=None)
        warped, ids = change.apply(image, condense(masks))
        disagree = ((warped[..., 0] > 127) != (ids == 1)).sum()
        assert ids.any() and disagree < 0.03 * ids.sum() + 30
