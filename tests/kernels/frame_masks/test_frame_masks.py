"""Masks at the size of the frame: drawn as interpolation does, encoded as pycocotools does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

import kernels
from kernels.frame_masks import cpu


def make_logits(count, h, w, seed, kind="noise"):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, h, w, generator=g)
    if kind == "blob":
        y, x = torch.arange(h)[:, None] / h, torch.arange(w) / w
        logits = 0.4 - ((y - 0.5) ** 2 + (x - 0.4) ** 2).sqrt() + 0.02 * logits
    elif kind == "full":
        logits = logits.abs() + 1
    elif kind == "empty":
        logits = -logits.abs()
    return logits


def interpolated(logits, size):
    full = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return full, (full > 0).numpy()


def coco_texts(masks):
    """[M, H, W] bool -> compressed text of each."""
    stacked = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    return [code["counts"].decode() for code in coco_mask.encode(stacked)]


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 3),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    H=st.integers(1, 40),
    W=st.integers(1, 40),
    kind=st.sampled_from(["noise", "blob", "full", "empty"]),
    seed=st.integers(0, 2**16),
)
def test_drawn_and_encoded_as_by_interpolation(count, h, w, H, W, kind, seed):
    logits = make_logits(count, h, w, seed, kind)
    full, expected = interpolated(logits, (H, W))
    drawn = kernels.threshold_masks(logits, (H, W))
    assert drawn.shape == (count, W, H) and drawn.dtype == torch.uint8
    masks = drawn.numpy().transpose(0, 2, 1)
    # where the interpolated value is rounding noise around zero, either answer is right
    assert not ((masks != expected) & (full.abs() > 1e-5).numpy()).any()
    encoded = kernels.encode_masks(logits, (H, W))
    if encoded is None:
        pytest.skip("no C compiler")
    assert encoded.counts == coco_texts(masks)
    assert encoded.areas == masks.sum((1, 2)).tolist()


@pytest.mark.parametrize("backend", ["auto", "reference", "triton"])
@pytest.mark.parametrize("size", [(7, 3), (150, 11)])
def test_bits_are_the_bytes(backend, size):
    logits = make_logits(2, 5, 4, seed=1)
    with kernels.use_backend(backend):
        drawn = kernels.threshold_masks(logits, size).numpy()
        bits = kernels.threshold_masks(logits, size, packed=True).numpy()
    assert bits.shape == (2, size[1], -(-size[0] // 8))
    unpacked = np.unpackbits(bits, axis=-1, count=size[0], bitorder="little")
    assert np.array_equal(unpacked, drawn)
    _, expected = interpolated(logits, size)
    assert np.array_equal(drawn.transpose(0, 2, 1), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_leading_axes(dtype):
    logits = make_logits(6, 5, 4, seed=2).to(dtype)
    _, expected = interpolated(logits.double(), (20, 30))
    drawn = kernels.threshold_masks(logits.view(2, 3, 5, 4), (20, 30))
    assert np.array_equal(drawn.numpy().reshape(6, 30, 20).transpose(0, 2, 1), expected)


def test_masks_of_many_runs_get_more_room():
    logits = make_logits(2, 60, 50, seed=3)  # a change of value every few pixels
    encoded = kernels.encode_masks(logits, (120, 40))
    if encoded is None:
        pytest.skip("no C compiler")
    drawn = kernels.threshold_masks(logits, (120, 40)).numpy().transpose(0, 2, 1)
    assert max(map(len, encoded.counts)) > 16 * (40 + 16)  # the room of the first attempt
    assert encoded.counts == coco_texts(drawn)


def test_without_a_compiler(monkeypatch):
    logits = make_logits(2, 5, 4, seed=4)
    drawn = kernels.threshold_masks(logits, (20, 30))
    monkeypatch.setattr(cpu, "library", lambda *_: None)
    assert kernels.encode_masks(logits, (20, 30)) is None
    assert torch.equal(kernels.threshold_masks(logits, (20, 30)), drawn)


def test_threads_change_nothing():
    logits = make_logits(5, 12, 14, seed=5)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            results.append(kernels.threshold_masks(logits, (50, 60)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_operator_is_well_behaved():
    torch.library.opcheck(
        torch.ops.seqformer_kernels.threshold_masks.default,
        (make_logits(2, 3, 4, seed=6), 9, 7, True),
    )


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"logits must be float maps \[\.\.\., h, w\]"):
        kernels.threshold_masks(torch.zeros(2, 3, 4, dtype=torch.long), (5, 6))
    with pytest.raises(ValueError, match=r"frame_size must be a positive \(height, width\)"):
        kernels.encode_masks(torch.zeros(2, 3, 4), (0, 6))
