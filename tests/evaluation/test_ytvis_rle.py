"""Reading and checking the text of COCO masks, against the C library."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.polygons import rasterise_polygons
from seqformer.annotations.run_lengths import compress_runs, read_runs
from seqformer.annotations.run_lists import compress_run_lists

MASKS = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 1)
)


def encoded(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask))["counts"].decode()


def decoded(runs, position: int, shape: tuple[int, int]) -> np.ndarray:
    pairs = slice(runs.first[position], runs.first[position + 1])
    lengths = np.stack([runs.zeros[pairs], runs.ones[pairs]], axis=1).ravel()
    values = np.arange(lengths.size) % 2
    return np.repeat(values, lengths).reshape(shape, order="F").astype(np.uint8)


@settings(deadline=None)
@given(st.lists(MASKS, max_size=6))
def test_masks_of_a_batch_are_read_as_the_library_decodes_them(masks):
    runs = read_runs([encoded(mask) for mask in masks], [mask.size for mask in masks])
    assert runs.areas.tolist() == [mask.sum() for mask in masks]
    for position, mask in enumerate(masks):
        np.testing.assert_array_equal(decoded(runs, position, mask.shape), mask)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**22), min_size=1, max_size=30))
def test_runs_of_any_length_survive_being_written_and_read(lengths):
    runs = read_runs([compress_runs(lengths)] * 2, [sum(lengths)] * 2)
    last = runs.first[1]
    read = np.stack([runs.zeros[:last], runs.ones[:last]], axis=1).ravel().tolist()
    assert read == lengths + [0] * (len(lengths) % 2)


def test_the_longest_runs_survive_too():
    lengths = [0, 2**29 - 1, 0, 0, 0]
    assert read_runs([compress_runs(lengths)], [2**29 - 1]).areas.tolist() == [2**29 - 1]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.text(st.characters(min_codepoint=40, max_codepoint=130), min_size=1), min_size=1)
)
def test_arbitrary_text_is_read_or_refused_but_never_crashes(texts):
    try:
        runs = read_runs(texts, [100] * len(texts))
    except InvalidMaskError as error:
        assert 0 <= error.position < len(texts)
    else:
        assert runs.zeros.min() >= 0
        assert runs.ones.min() >= 0


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("04P", "stop in the middle of a number"),
        ("P", "stop in the middle of a number"),
        ("0 4", "foreign character"),
        ("0é4", "foreign character"),
        ("p04", "foreign character"),
        ("44", "add up to 8 pixels instead of 100"),
        (compress_runs([50, 51]), "add up to 101 pixels instead of 100"),
        ("PPPPPPPP0", "absurd size"),
        ("O" + compress_runs([101]), "negative"),
    ],
)
def test_a_broken_mask_is_found_among_good_ones(broken, problem):
    good = compress_runs([40, 20, 40])
    with pytest.raises(InvalidMaskError, match=problem) as caught:
        read_runs([good, good, broken, good], [100] * 4)
    assert caught.value.position == 2


@pytest.mark.parametrize("runs", [[4, -1, 7], [1.5, 2], ["1"], [2**40], [2**70], [None]])
def test_run_lengths_that_are_none_are_refused(runs):
    with pytest.raises(InvalidMaskError, match="run length"):
        compress_runs(runs)


def test_polygons_are_united():
    square = [2, 2, 6, 2, 6, 6, 2, 6]
    both = rasterise_polygons([square, [4, 2, 8, 2, 8, 6, 4, 6]], 10, 12)
    assert both == rasterise_polygons([[2, 2, 8, 2, 8, 6, 2, 6]], 10, 12)
    assert read_runs([both], [120]).areas.tolist() == [24]


@pytest.mark.parametrize(
    "polygons",
    [[[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [1, 2], [["a"] * 6], [[float("nan")] * 6], [[1e9] * 6]],
)
def test_polygons_that_are_none_are_refused(polygons):
    with pytest.raises(InvalidMaskError, match="polygon"):
        rasterise_polygons(polygons, 10, 10)


@pytest.mark.parametrize("gap", ["", " ", "\n    "])
def test_lists_of_runs_in_a_file_become_text(gap):
    text = f'[{{"size":{gap}[2, 3], "counts":{gap}[{gap}1,{gap}2,{gap}3]}}]'
    assert (
        compress_run_lists(text)
        == f'[{{"size":{gap}[2, 3], "counts":{gap}"{compress_runs([1, 2, 3])}"}}]'
    )


def test_text_of_runs_is_escaped():
    runs = next(r for r in ([10, n] for n in range(1000)) if "\\" in compress_runs(r))
    assert '"' + compress_runs(runs).replace("\\", "\\\\") + '"' in compress_run_lists(
        f'{{"counts": {runs}}}'
    )


@pytest.mark.parametrize(
    "odd",
    [
        "[]",
        "[1,,2]",
        "[1 2]",
        "[1.5, 2]",
        "[-1, 2]",
        "[1, [2]]",
        "[1, null]",
        "[99999999999]",
        "[1, 2",
    ],
)
def test_anything_else_is_left_to_the_parser(odd):
    text = f'{{"counts": {odd}}}'
    assert compress_run_lists(text) == text
