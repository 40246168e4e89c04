"""Frames in chunks: the same results as the clip at once, in memory that does not grow."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqformer.config import EvalConfig
from seqformer.inference import Predictor, StreamLimits
from seqformer.inference.frame_store import FrameData, FrameStore
from seqformer.inference.network import FrameChunk
from tests.inference.small_model import film, small_model

MODEL = small_model()


def predictor(chunk_frames=3, limits=None, model=MODEL, **changes) -> Predictor:
    config = EvalConfig(short_side=32, top_k=4, chunk_frames=chunk_frames, **changes)
    return Predictor(model, config=config, device="cpu", limits=limits)


def masks(detection) -> np.ndarray:
    return np.stack([detection.mask(t) for t in range(len(detection.segmentations))])


def assert_same(actual, expected):
    assert [(d.query, d.class_index) for d in actual.detections] == [
        (d.query, d.class_index) for d in expected.detections
    ]
    assert actual.num_frames == expected.num_frames
    for a, b in zip(actual.detections, expected.detections, strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-5)
        np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, atol=1e-3)
        for frame, (x, y) in enumerate(zip(masks(a), masks(b), strict=True)):
            union, common = (x | y).sum(), (x & y).sum()
            assert union - common <= 3 or common / union >= 0.999, frame


@settings(max_examples=15, deadline=None)
@given(T=st.integers(1, 40), chunk_frames=st.integers(1, 41), seed=st.integers(0, 3))
def test_chunk_size_does_not_matter(T, chunk_frames, seed):
    frames = film(T, seed=seed)
    whole = predictor(T).predict(frames)
    assert whole.num_frames == T and len(whole.detections) >= 2
    assert_same(predictor(chunk_frames).predict(frames), whole)


@pytest.mark.parametrize("mode", ["whole", "clips"])
def test_on_several_threads_more_frames_go_through_together(mode):
    frames, before, found = film(7, 90, 300), torch.get_num_threads(), []
    config = EvalConfig(short_side=144, top_k=4, mode=mode, clip_length=4, clip_stride=3)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            network = Predictor(MODEL, config=config, device="cpu")
            assert network.default_chunk_frames() == (2 if threads == 1 else 8)
            found.append(network.predict(frames))
    finally:
        torch.set_num_threads(before)
    assert_same(*found)


def test_sums_of_frames_do_not_depend_on_the_chunks():
    g = torch.Generator().manual_seed(0)
    logits, sampled = torch.randn(1, 7, 5, 1, generator=g), torch.randn(1, 7, 5, 8, generator=g)
    pools = []
    for size in (2, 4, 6, 8):
        pool = None
        for start in range(0, 7, size):
            part = slice(start, start + size)
            boxes = torch.zeros(logits[:, part].shape[1], 5, 4)
            chunk = FrameChunk([logits[:, part]], [sampled[:, part]], *[boxes] * 3, boxes)
            pool = chunk.merged_into(pool, 2)
        pools.append(pool.pooled())
    assert all(torch.equal(pool, pools[0]) for pool in pools)


def test_streaming_is_the_forward_of_the_clip_at_once():
    frames = film(9)
    images = []
    box_stream = MODEL.box_stream

    class Watched(torch.nn.Module):
        mask_stride = MODEL.mask_stride
        instance_stream, instance_heads = MODEL.instance_stream, MODEL.instance_heads

        def box_stream(self, x):
            images.append(x)
            return box_stream(x)

    prediction = predictor(4, model=Watched()).predict(frames)
    assert [x.shape[1] for x in images] == [4, 4, 1]
    with torch.inference_mode():
        output = MODEL(torch.cat(images, dim=1), last_layer_only=True)
    scores = output.class_logits[-1, 0].sigmoid()
    for detection in prediction.detections:
        expected = float(scores[detection.query, detection.class_index])
        assert detection.score == pytest.approx(expected, abs=1e-5)
    best = scores.flatten().topk(4).values
    assert sorted((d.score for d in prediction.detections), reverse=True) == pytest.approx(
        best.tolist()[: len(prediction.detections)], abs=1e-5
    )


@pytest.mark.parametrize("mode", ["whole", "clips"])
def test_results_so_far_are_those_of_the_video_so_far(mode):
    frames = film(11)
    p = predictor(mode=mode, clip_length=4, clip_stride=2)
    with p.stream() as stream:
        for count, frame in enumerate(frames, start=1):
            stream.push(frame)
            if count in (1, 2, 6, 7, 11):
                so_far = stream.tracks()
                assert [d.query for d in so_far.detections] == [
                    d.query for d in stream.tracks().detections
                ], "looking at the results must not change them"
                assert so_far.num_frames == count
                expected = p.predict(frames[:count])
                assert [d.score for d in so_far.detections] == pytest.approx(
                    [d.score for d in expected.detections], abs=1e-5
                )
                for a, b in zip(so_far.detections, expected.detections, strict=True):
                    assert [s is None for s in a.segmentations] == [
                        s is None for s in b.segmentations
                    ]
        latest = stream.tracks(last=2)
    assert (latest.first_frame, latest.num_frames) == (9, 2)


@pytest.mark.parametrize("mode", ["whole", "clips"])
def test_a_live_stream_yields_tracks_of_the_newest_frames(mode):
    p = predictor(1, mode=mode, clip_length=4, clip_stride=2)
    results = list(p.track(iter(film(10)), every=4))
    assert [(r.first_frame, r.num_frames) for r in results] == [(3, 1), (7, 1), (9, 1)]
    whole = p.predict(film(10))
    assert [d.score for d in results[-1].detections] == pytest.approx(
        [d.score for d in whole.detections], abs=1e-5
    )
    for newest, all_frames in zip(results[-1].detections, whole.detections, strict=True):
        if all_frames.mask(9) is not None:
            assert np.array_equal(newest.mask(0), all_frames.mask(9))
    with pytest.raises(ValueError, match="no frames"):
        list(p.track([]))
    with pytest.raises(ValueError, match="every must be"):
        next(p.track(film(2), every=0))


def test_what_drawing_needs_goes_to_disk_when_memory_is_full():
    frames = film(20)
    expected = predictor().predict(frames)
    p = predictor(limits=StreamLimits(memory_mib=0))
    with p.stream() as stream:
        for frame in frames:
            stream.push(frame)
        actual = stream.tracks()
        assert stream._store.memory_bytes == 0 and stream._store.disk_bytes > 20 * 8 * 8 * 11
    assert actual.entries(1, "x") == expected.entries(1, "x")


def test_a_disk_that_is_full_loses_nothing_that_was_kept():
    with predictor(1, limits=StreamLimits(memory_mib=0, disk_mib=0)).stream() as stream:
        stream.push(film(1)[0])
        with pytest.raises(ValueError, match="give a window"):
            stream.tracks()
    store = FrameStore(0, disk_limit=3000)
    first = chunk(0, 2)
    store.append(first)
    with pytest.raises(ValueError, match="of disk; raise a limit"):
        store.append(chunk(2, 9))
    (kept,) = store.read(0, 99)
    assert np.array_equal(kept.mask_features, first.mask_features)
    with pytest.raises(ValueError, match="window must be"):
        StreamLimits(window=0)


def chunk(first: int, length: int) -> FrameData:
    rng = np.random.default_rng(first)
    return FrameData(
        first,
        rng.random((length, 8, 4, 5), np.float32),
        rng.random((length, 3, 2), np.float32),
        rng.random((length, 3, 4), np.float32),
    )


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=9),
    memory=st.sampled_from([0, 2000, 10**9]),
    window=st.integers(1, 9),
    cut=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_store_returns_what_it_was_given(lengths, memory, window, cut):
    store, all_frames = FrameStore(memory), []
    for length in lengths:
        data = chunk(len(all_frames), length)
        store.append(data)
        all_frames += list(data.mask_features)
        store.forget_before(store.stop - window)
        assert store.stop == len(all_frames)
        assert store.stop - window - 4 < store.start <= max(0, store.stop - window)
        assert store.memory_bytes <= memory
    read = list(store.read(*cut))
    numbers = [n for data in read for n in range(data.first, data.stop)]
    assert numbers == list(range(max(cut[0], store.start), min(cut[1], store.stop)))
    for data in read:
        for offset, features in enumerate(data.mask_features):
            assert np.array_equal(features, all_frames[data.first + offset])
    store.close()
    assert store.memory_bytes == store.disk_bytes == 0


def test_an_endless_stream_does_not_make_an_endless_file():
    store, sizes = FrameStore(0), []
    for number in range(50):
        store.append(chunk(2 * number, 2))
        store.forget_before(store.stop - 6)
        sizes.append(store._file.seek(0, 2))
    assert sizes[-1] == sizes[5]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads resident memory there")
def test_memory_is_flat_but_for_what_drawing_needs():
    """T = 10, 100 and 500: the tensors alive and what the process holds beyond the store."""
    p = Predictor(MODEL, config=EvalConfig(short_side=16, chunk_frames=5), device="cpu")
    frame = film(1, 20, 24)[0]

    def resident() -> int:
        gc.collect()
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))

    def run(T):
        with p.stream() as stream:
            held = []
            for t in range(T):
                stream.push(np.roll(frame, t, axis=1))
                if (t + 1) % max(T // 5, 5) == 0:
                    held.append(resident() - stream._store.memory_bytes)
            tensors = [o for o in gc.get_objects() if type(o) is torch.Tensor and not o.is_mkldnn]
            return (
                sum(t.untyped_storage().nbytes() for t in tensors),
                stream._store.memory_bytes,
                max(held),
            )

    while gc.collect():  # what other tests left takes several rounds
        pass
    run(50)
    results = [run(T) for T in (10, 100, 500)]
    per_frame = (8 * 4 * 5 + 7 * 6) * 4  # features at stride 4 of 16x19, references and boxes
    alive, kept, held = zip(*results, strict=True)
    assert len(set(alive)) == 1, "tensors of earlier chunks are still alive"
    assert [kept[0], kept[1], kept[2]] == [T * per_frame - 5 * per_frame for T in (10, 100, 500)]
    assert held[2] - held[0] < 8 << 20


def test_a_window_bounds_what_a_stream_keeps():
    for mode in ("whole", "clips"):
        p = predictor(2, mode=mode, clip_length=4, clip_stride=2)
        with p.stream(StreamLimits(window=6)) as stream:
            kept = []
            for frame in film(60):
                stream.push(frame)
                kept.append(stream._store.memory_bytes)
            assert max(kept[10:]) == max(kept[50:])
            prediction = stream.tracks()
        assert (prediction.first_frame, prediction.num_frames) == (54, 6)
        assert all(len(d.segmentations) == 6 for d in prediction.detections)
        if mode == "clips":
            assert all(len(t.boxes) <= 8 for t in stream._matcher.tracks)


def test_bad_frames_do_not_end_a_stream():
    frames = film(5)
    with predictor(2).stream() as stream:
        for frame in frames[:3]:
            stream.push(frame)
        with pytest.raises(ValueError, match="frame 3 is 40x40 pixels"):
            stream.push(frames[3][:, :40])
        with pytest.raises(ValueError, match="frame 3 must be uint8"):
            stream.push(frames[3] / 255)
        with pytest.raises(ValueError, match="1x5000 pixels would be enlarged to"):
            Predictor(MODEL, config=EvalConfig(short_side=90), device="cpu").predict(
                [np.zeros((5000, 1, 3), np.uint8)]
            )
        for frame in frames[3:]:
            stream.push(frame)
        assert_same(stream.tracks(), predictor(2).predict(frames))


def test_one_pixel_frames_are_a_video():
    prediction = predictor().predict(np.full((3, 1, 1, 3), 200, np.uint8))
    assert prediction.frame_size == (1, 1)
    assert all(s["size"] == [1, 1] for d in prediction.detections for s in d.segmentations)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_streams_too(precision):
    frames = film(7)
    exact = predictor().predict(frames)
    half = predictor(limits=StreamLimits(memory_mib=0), precision=precision).predict(frames)
    assert half.num_frames == 7
    assert half.detections[0].score == pytest.approx(exact.detections[0].score, abs=0.03)
