"""Our resize against Pillow's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seqformer.data.resize import resize_image

SIDES = st.integers(1, 120)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Rows first, which Pillow 13 does not always do by itself."""
    resized = Image.fromarray(image).resize((width, len(image)), Image.Resampling.BILINEAR)
    return np.asarray(resized.resize((width, height), Image.Resampling.BILINEAR))


@settings(max_examples=200, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 9))
def test_equals_pillow(height, width, new_height, new_width, seed):
    image = noise(height, width, seed)
    resized = resize_image(image, (new_height, new_width))
    np.testing.assert_array_equal(resized, pillow(image, new_height, new_width))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_window_is_the_crop_of_the_whole(data):
    height, width, new_height, new_width = (data.draw(SIDES) for _ in range(4))
    h, w = data.draw(st.integers(1, new_height)), data.draw(st.integers(1, new_width))
    top, left = data.draw(st.integers(0, new_height - h)), data.draw(st.integers(0, new_width - w))
    image, size = noise(height, width), (new_height, new_width)
    np.testing.assert_array_equal(
        resize_image(image, size, (top, left, h, w)),
        resize_image(image, size)[top : top + h, left : left + w],
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [((720, 1280), (432, 768)), ((480, 854), (500, 889)), ((480, 640), (600, 800))],
)
def test_equals_one_call_of_pillow_at_real_sizes(old, new):
    image = noise(*old)
    theirs = Image.fromarray(image).resize(new[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize_image(image, new), np.asarray(theirs))


@pytest.mark.parametrize(("old", "new", "first"), [(85, 71, 36), (71, 85, 0), (1, 9, 4)])
def test_a_weight_that_rounds_to_zero_keeps_its_place(old, new, first):
    image = noise(old, old)
    np.testing.assert_array_equal(
        resize_image(image, (new, new), (first, 0, 1, new)),
        pillow(image, new, new)[first : first + 1],
    )


def test_extremes_neither_wrap_nor_darken():
    for value in (0, 255):
        image = np.full((31, 17, 3), value, np.uint8)
        for size in ((7, 90), (45, 5), (1, 1), (31, 17)):
            assert (resize_image(image, size) == value).all()
