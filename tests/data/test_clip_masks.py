"""Masks in packed form, and decoded only where they are looked at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.packed_masks import (
    decode_segmentation,
    pack_segmentation,
    read_segmentations,
    sample_mask,
    unpack_segmentation,
)
from seqformer.annotations.run_lengths import compress_runs
from seqformer.data.clip_masks import ClipMasks, DenseMasks, IdMapMasks, PackedMasks


def compressed(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_sample_is_the_indexed_mask(data):
    height, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    kind = data.draw(st.sampled_from(["noise", "box", "columns", "empty", "full"]))
    mask = np.zeros((height, width), bool)
    if kind == "noise":
        mask = rng.random((height, width)) < rng.random()
    elif kind == "box":
        top, left = rng.integers(height), rng.integers(width)
        mask[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = True
    elif kind == "columns":  # whole ones, whose runs go on into the next
        mask[:, rng.integers(width) :] = True
    else:
        mask[:] = kind == "full"
    rows = np.sort(rng.integers(height, size=data.draw(st.integers(1, 40))))
    columns = np.sort(rng.integers(width, size=data.draw(st.integers(1, 40))))
    if data.draw(st.booleans()):
        columns = columns[::-1]
    out = np.zeros((2, len(rows), len(columns)), bool)
    both = read_segmentations([compressed(mask), None, compressed(~mask)], height, width)
    assert both[1] is None
    for runs, sample in zip(both[::2], out, strict=True):
        sample_mask(*runs, height, rows, columns, sample)
    np.testing.assert_array_equal(out[0], mask[rows[:, None], columns])
    np.testing.assert_array_equal(out[1], ~out[0])


def test_runs_that_are_empty_do_not_matter():
    runs = compress_runs([0, 0, 2, 3, 0, 1, 6, 0, 0])  # on a 3 x 4 frame
    out = np.zeros((3, 4), bool)
    (read,) = read_segmentations([runs], 3, 4)
    sample_mask(*read, 3, np.arange(3), np.arange(4), out)
    np.testing.assert_array_equal(out, decode_segmentation(runs, 3, 4))
    assert out.sum() == 4


@pytest.mark.parametrize(
    "wrong,problem",
    [("52203", "add up to"), ("5220~", "foreign"), ([[1.0, 2.0]], "."), ("", ".")],
)
def test_the_wrong_one_of_several_is_named(wrong, problem):
    right = compressed(np.eye(3, 4, dtype=bool))
    with pytest.raises(InvalidMaskError, match=problem) as raised:
        read_segmentations([right, None, wrong, None, right], 3, 4)
    assert raised.value.position == 2


@pytest.mark.parametrize("segmentation", [None, [[0.5, 1.25, 7.0, 1.0, 7.0, 6.0]], "52203"])
def test_packing_loses_nothing(segmentation):
    packed = pack_segmentation(segmentation)
    assert isinstance(packed, bytes) and (segmentation is None) == (packed == b"")
    assert unpack_segmentation(packed) == segmentation


def test_sources_agree_and_only_kept_instances_are_decoded():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 2, 9, 12)) < 0.4  # [N, T, H, W]
    asked = []

    def segmentation(n, t):
        asked.append((n, t))
        return compressed(masks[n, t])

    dense = ClipMasks.of(DenseMasks(masks.swapaxes(0, 1)))
    packed = ClipMasks.of(PackedMasks(masks.shape, segmentation, lambda n, t: ""))
    keep = np.array([True, False, True])
    for one in (dense, packed):
        part = one.take(slice(2, 8), slice(None, None, -1)).take(np.array([0, 0, 3])).keep(keep)
        assert part.size == (3, 12)
        expected = masks[keep][:, :, 2:8, ::-1][:, :, [0, 0, 3]]
        np.testing.assert_array_equal(part.decode(), expected)
    assert asked == [(0, 0), (0, 1), (2, 0), (2, 1)]


def test_id_maps_hold_one_owner_per_pixel_and_the_picture_overlaps():
    still = np.zeros((2, 4, 4), bool)
    still[0, :3], still[1, 1:] = True, True
    id_map = np.array([[0, 1, 1, 0]] * 2 + [[2, 2, 0, 0]] * 2, np.uint8)
    masks = ClipMasks.of(IdMapMasks(still, [None, id_map])).decode()
    np.testing.assert_array_equal(masks[:, 0], still)
    np.testing.assert_array_equal(masks[:, 1], [id_map == 1, id_map == 2])
