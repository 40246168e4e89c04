"""Clip matching on its own, with clips given by hand, and through the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqformer.config import EvalConfig
from seqformer.inference import Predictor, StreamLimits
from seqformer.inference.clip_matching import ClipMatcher, soft_mask_iou
from seqformer.inference.stream import StreamContext
from tests.inference.small_model import film, small_model

MODEL = small_model()
SIZE = 8


def context(threshold=0.1) -> StreamContext:
    config = EvalConfig(mode="clips", match_threshold=threshold)
    return StreamContext(network=None, config=config, chunk_frames=1)


def logits(*columns: int | None, strength: float = 6.0) -> torch.Tensor:
    """[F, 8, 8] of an instance that fills one column per frame; None: nowhere."""
    maps = torch.full((len(columns), SIZE, SIZE), -strength)
    for frame, column in enumerate(columns):
        if column is not None:
            maps[frame, :, column] = strength
    return maps


def add(matcher, first, *instances, classes=None):
    stacked = torch.stack(instances)
    n, frames = stacked.shape[:2]
    classes = torch.zeros(n, 3) if classes is None else torch.tensor(classes)
    matcher.add(first, classes, stacked, torch.full((n, frames, 4), 0.5), (SIZE, SIZE))


def columns(track) -> dict[int, set[int]]:
    """Frame -> columns that the finished masks of a track fill."""
    from pycocotools import mask as coco_mask

    actual = {}
    for start, _, job in track.masks:
        for offset, rle in enumerate(job.result()):
            filled = coco_mask.decode(rle).any(axis=0)
            actual[start + offset] = set(np.flatnonzero(filled).tolist())
    return actual


def test_instances_are_joined_where_their_masks_agree():
    matcher = ClipMatcher(context())
    add(matcher, 0, logits(0, 1, 2, 3), logits(7, 6, 5, 4))
    add(matcher, 2, logits(5, 4, 3, 2), logits(2, 3, 4, 5), logits(None, None, 0, 0))
    matcher.finish_before(6, (SIZE, SIZE))
    assert [t.number for t in matcher.tracks] == [0, 1, 2]
    assert columns(matcher.tracks[0]) == {0: {0}, 1: {1}, 2: {2}, 3: {3}, 4: {4}, 5: {5}}
    assert columns(matcher.tracks[1]) == {0: {7}, 1: {6}, 2: {5}, 3: {4}, 4: {3}, 5: {2}}
    assert columns(matcher.tracks[2]) == {2: set(), 3: set(), 4: {0}, 5: {0}}


def test_shared_frames_are_averaged_over_their_clips():
    matcher = ClipMatcher(context())
    add(matcher, 0, logits(1, 1, 1), classes=[[2.0, 0, 0]])
    strong, weak = logits(1, 1, 1, strength=9.0), logits(1, 1, 1, strength=9.0)
    weak[0, :, 5] = 20.0  # so sure of column 5 that the mean is positive there
    add(matcher, 1, weak, classes=[[0, 4.0, 0]])
    add(matcher, 2, strong, classes=[[0, 2.0, 0]])
    matcher.finish_before(5, (SIZE, SIZE))
    (track,) = matcher.tracks
    assert columns(track) == {0: {1}, 1: {1, 5}, 2: {1}, 3: {1}, 4: {1}}
    torch.testing.assert_close(track.class_logits / track.num_clips, torch.tensor([2 / 3, 2.0, 0]))


def test_one_to_one_by_the_best_sum_and_only_above_the_threshold():
    near, far = logits(2, 2), logits(3, 3)
    both = torch.maximum(near, far)
    for threshold, expected in ((0.1, 2), (0.9, 3)):
        matcher = ClipMatcher(context(threshold))
        add(matcher, 0, near, far)
        # `both` overlaps each of the old ones by a half; `far` again is a better match for one.
        add(matcher, 0, both, far)
        assert matcher.num_tracks == expected


def test_a_gap_longer_than_the_shared_frames_ends_a_track():
    matcher = ClipMatcher(context())
    add(matcher, 0, logits(1, 1, 1, 1))
    add(matcher, 2, logits(6, 6, 6, 6))
    add(matcher, 4, logits(1, 1, 1, 1))
    matcher.finish_before(8, (SIZE, SIZE))
    assert [sorted(columns(t)) for t in matcher.tracks] == [
        [0, 1, 2, 3],
        [2, 3, 4, 5],
        [4, 5, 6, 7],
    ]
    assert not matcher.open and len(matcher.logits) == 0


def test_a_copy_can_go_on_alone():
    matcher = ClipMatcher(context())
    add(matcher, 0, logits(1, 1, 1))
    copy = matcher.copy()
    add(copy, 1, logits(1, 1, 1), logits(5, 5, 5))
    copy.finish_before(4, (SIZE, SIZE))
    assert len(matcher.tracks) == 1 and matcher.tracks[0].num_clips == 1
    assert not matcher.tracks[0].masks and matcher.first == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, 4), m=st.integers(1, 4), F=st.integers(1, 3))
def test_soft_iou_is_its_definition(seed, n, m, F):
    g = torch.Generator().manual_seed(seed)
    a = torch.rand(n, F, 5, 4, generator=g, dtype=torch.float64)
    b = torch.rand(m, F, 5, 4, generator=g, dtype=torch.float64)
    counted = torch.rand(n, F, generator=g) > 0.4
    iou = soft_mask_iou(a, b, counted)
    for i in range(n):
        for j in range(m):
            x, y = a[i][counted[i]], b[j][counted[i]]
            expected = (x * y).sum() / (x + y - x * y).sum().clamp(min=1e-6)
            assert iou[i, j] == pytest.approx(float(expected), abs=1e-9)
    torch.testing.assert_close(
        soft_mask_iou(a, b), soft_mask_iou(a, b, torch.ones(n, F, dtype=torch.bool))
    )


def predictor(**changes) -> Predictor:
    config = EvalConfig(short_side=32, top_k=4, chunk_frames=3, **changes)
    return Predictor(MODEL, config=config, device="cpu")


def test_one_clip_is_whole_video_inference():
    frames = film(9)
    whole = predictor().predict(frames)
    clips = predictor(mode="clips", clip_length=9, clip_stride=4).predict(frames)
    # The order of groups, hence the tracks' numbers, are the same; so is all the rest.
    assert clips.entries(1, "x") == [
        {**entry, "score": pytest.approx(entry["score"], abs=1e-6)}
        for entry in whole.entries(1, "x")
    ]


@settings(max_examples=12, deadline=None)
@given(
    T=st.integers(1, 25),
    length=st.integers(1, 9),
    stride=st.integers(1, 9),
    chunk_frames=st.integers(1, 12),
)
def test_portions_do_not_matter_and_every_frame_is_in_a_clip(T, length, stride, chunk_frames):
    stride = min(stride, length)
    p = predictor(mode="clips", clip_length=length, clip_stride=stride)
    expected = p.predict(film(T))
    p.config = replace(p.config, chunk_frames=chunk_frames)
    actual = p.predict(film(T))
    assert [d.query for d in actual.detections] == [d.query for d in expected.detections]
    covered = set()
    for a, b in zip(actual.detections, expected.detections, strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-5)
        assert [s is None for s in a.segmentations] == [s is None for s in b.segmentations]
        covered |= {t for t, s in enumerate(a.segmentations) if s is not None}
        present = [s is not None for s in a.segmentations]
        assert np.array_equal(a.boxes_xyxy.any(axis=1), present)


def test_memory_follows_the_clip_not_the_video():
    p = predictor(mode="clips", clip_length=6, clip_stride=3)
    held = []
    with p.stream(StreamLimits(window=6)) as stream:
        for frame in film(60):
            stream.push(frame)
            matcher = stream._matcher
            held.append(
                (
                    stream._store.memory_bytes,
                    len(stream._segments),
                    0 if matcher.logits is None else matcher.logits.shape[1],
                )
            )
    for early, late in zip(np.max(held[6:20], axis=0), np.max(held[20:], axis=0), strict=True):
        assert late <= early


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_stride": 11}, "clip_stride must be in 1..clip_length"),
        ({"clip_length": 0, "clip_stride": 0}, "clip_stride must be in 1..clip_length"),
        ({"match_threshold": 1.5}, "match_threshold must be in 0..1"),
        ({"chunk_frames": 0}, "chunk_frames must be at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EvalConfig(mode="clips", **changes)
