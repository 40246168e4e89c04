"""Spatio-temporal IoU against dense masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqformer.annotations.masks import parse_mask
from seqformer.annotations.run_lengths import InvalidMaskError
from seqformer.evaluation.track_iou import build_tracks, track_ious
from tests.evaluation.ytvis_problems import rectangle, rle

SIZES = [(3, 4), (4, 3), (5, 5)]


def dense_iou(one: list, other: list) -> float:
    """The definition, frame by frame on pixels."""
    intersection = union = 0
    for a, b in zip(one, other, strict=False):
        if a is not None and b is not None and a.shape != b.shape:
            continue
        if a is not None and b is not None:
            intersection += int((a & b).sum())
            union += int((a | b).sum())
        else:
            union += sum(int(mask.sum()) for mask in (a, b) if mask is not None)
    return intersection / union if union else 0.0


@st.composite
def dense_tracks(draw, sizes):
    """Up to three tracks of up to four frames, each absent or random pixels."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    usual = draw(st.integers(1, 4))
    tracks = []
    for _ in range(draw(st.integers(1, 3))):
        length = usual if len(sizes) == 1 else draw(st.integers(0, 4))
        tracks.append(
            [
                None
                if rng.random() < 0.25
                else (rng.random(sizes[rng.integers(len(sizes))]) < rng.choice([0, 0.3, 0.7, 1]))
                for _ in range(length)
            ]
        )
    return tracks


def packed(tracks: list) -> list:
    return build_tracks([[m if m is None else rle(m) for m in track] for track in tracks], None)


@pytest.mark.parametrize("sizes", [SIZES[:1], SIZES], ids=["one size", "mixed sizes and lengths"])
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_iou_equals_that_of_dense_masks(sizes, data):
    results, truths = data.draw(dense_tracks(sizes)), data.draw(dense_tracks(sizes))
    got = track_ious(packed(results), packed(truths))
    expected = [[dense_iou(result, truth) for truth in truths] for result in results]
    np.testing.assert_array_equal(got, expected)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_floor_only_removes_ious_below_it(data):
    results, truths = data.draw(dense_tracks(SIZES[:1])), data.draw(dense_tracks(SIZES[:1]))
    exact = track_ious(packed(results), packed(truths))
    floored = track_ious(packed(results), packed(truths), floor=0.5)
    np.testing.assert_array_equal(floored[exact >= 0.5], exact[exact >= 0.5])
    assert np.all((floored == exact) | (floored == 0))


def test_it_is_not_the_mean_over_frames():
    one = [rectangle(0, 0, 2, 2), rectangle(0, 0, 8, 8)]
    other = [rectangle(0, 0, 2, 2), rectangle(0, 4, 8, 8)]
    tracks = build_tracks([one, other], None)
    assert track_ious(tracks[:1], tracks[1:]).item() == (4 + 32) / (4 + 96)


def test_frames_longer_than_32_bits_altogether():
    size = [2**14, 2**15 - 1]
    pixels = size[0] * size[1]
    frame = {"size": size, "counts": [pixels - 8, 8]}
    shifted = {"size": size, "counts": [pixels - 12, 8, 4]}
    tracks = build_tracks([[frame] * 6, [shifted] * 6], None)
    assert track_ious(tracks[:1], tracks[1:]).item() == 4 / 12


def test_nothing_to_compare():
    track = build_tracks([[rectangle(0, 0)]], None)
    assert track_ious([], track).shape == (0, 1)
    assert track_ious(track, []).shape == (1, 0)
    assert build_tracks([], None) == []
    assert build_tracks([[]], None)[0].mean_area() == 0


def test_mean_area_leaves_empty_frames_out():
    empty = rle(np.zeros((10, 20)))
    track = build_tracks([[None, empty, rectangle(0, 0, 2, 2), rectangle(0, 0, 2, 3)]], None)[0]
    assert track.mean_area() == 5


def test_all_forms_of_a_mask_are_the_same():
    text = rectangle(2, 3)
    runs = [32] + [4, 6] * 4 + [4, 124]
    polygon = [[3, 2, 8, 2, 8, 6, 3, 6]]
    forms = [
        text,
        {"size": (10, 20), "counts": text["counts"].encode()},
        {"size": [10, 20], "counts": runs},
        {"size": [10, 20], "counts": [0, 0, *runs[:1], 1, 0, 3, *runs[2:]]},
        polygon,
    ]
    tracks = build_tracks([[form] for form in forms], (10, 20))
    assert np.all(track_ious(tracks, tracks) == 1)


@pytest.mark.parametrize("counts", ["", [], b""])
def test_counts_without_a_run_are_an_empty_mask(counts):
    empty, full = build_tracks([[{"size": [3, 4], "counts": counts}], [rectangle(0, 0)]], None)
    assert empty.mean_area() == 0
    assert track_ious([empty], [full, empty]).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (7, "is 7; needed is null or an RLE"),
        ("04", "is '04'"),
        ({"size": [3], "counts": "04"}, "has size"),
        ({"size": [3, 0], "counts": "04"}, "has size"),
        ({"size": [3, 4.0], "counts": "04"}, "has size"),
        ({"size": [2**20, 2**20], "counts": "04"}, "has size"),
        ({"size": [3, 4]}, "has counts None"),
        ({"size": [3, 4], "counts": 5}, "has counts 5"),
        ({"counts": "04"}, "has size None"),
        ([[0, 0, 1, 0, 1, 1]], "no height and width"),
    ],
)
def test_what_is_no_mask_is_refused(mask, problem):
    with pytest.raises(InvalidMaskError, match=problem):
        parse_mask(mask, None)
    frames = [rectangle(0, 0), None, mask]
    with pytest.raises(InvalidMaskError, match=f"^frame 2 .*{problem}") as caught:
        build_tracks([[None], frames], None)
    assert caught.value.position == 1
