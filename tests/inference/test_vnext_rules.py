"""VNext's output rule and clip matching: what they are, written out plainly, and what differs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from seqformer.annotations.run_lengths import decode_mask
from seqformer.config import EvalConfig
from seqformer.inference import Predictor
from seqformer.inference.clip_matching import ClipMatcher
from seqformer.inference.clip_stream import ClipStream
from seqformer.inference.mask_encoder import MaskEncoder
from seqformer.inference.mask_rendering import compress_masks, mask_logits
from seqformer.inference.network import ChunkCopy
from seqformer.inference.resize import resize_frame
from seqformer.inference.stream import StreamContext
from seqformer.structures import ClassMap
from tests.inference.small_model import film, small_model

MODEL = small_model()


def predictor(classes=None, **changes) -> Predictor:
    config = EvalConfig(**{"short_side": 32, "top_k": 4, "chunk_frames": 3, **changes})
    return Predictor(MODEL, classes, config=config, device="cpu")


def labels_of(context_changes, logits, classes=None):
    config = EvalConfig(**context_changes)
    context = StreamContext(network=None, config=config, chunk_frames=1, classes=classes)
    return context.best_classes(torch.logit(torch.tensor(logits)))


LOGITS = [[0.04, 0.9, 0.3], [0.6, 0.02, 0.06], [0.03, 0.04, 0.01], [0.2, 0.25, 0.1]]


def test_all_classes_above_the_threshold_instead_of_the_best_pairs():
    rounded = lambda groups: {  # noqa: E731
        query: [(k, round(score, 4)) for k, score in labels] for query, labels in groups.items()
    }
    pairs = labels_of({"top_k": 3}, LOGITS)
    assert rounded(pairs) == {0: [(1, 0.9), (2, 0.3)], 1: [(0, 0.6)]}
    above = labels_of({"top_k": 3, "label_rule": "above"}, LOGITS)
    # Three queries, not three pairs; the third of the four best has no class above 0.05 but is not
    # among the best three.
    assert rounded(above) == {
        0: [(1, 0.9), (2, 0.3)],
        1: [(0, 0.6), (2, 0.06)],
        3: [(1, 0.25), (0, 0.2), (2, 0.1)],
    }
    strict = labels_of({"top_k": 4, "label_rule": "above", "label_threshold": 0.25}, LOGITS)
    assert list(rounded(strict)) == [0, 1]


def test_outputs_without_a_category_are_no_labels():
    classes = ClassMap((-1, 5, 9), ("", "five", "nine"))
    above = labels_of({"top_k": 2, "label_rule": "above"}, LOGITS, classes)
    # Without its class 0, query 1 is no longer among the best two.
    assert {q: [k for k, _ in labels] for q, labels in above.items()} == {0: [1, 2], 3: [1, 2]}


def test_whole_videos_with_either_rule():
    frames = film(6)
    pairs = predictor(top_k=4).predict(frames)
    above = predictor(top_k=4, label_rule="above", label_threshold=0.0).predict(frames)
    assert len(pairs.detections) <= 4
    # Nothing is below 0: every class of the four best queries.
    of_query = {d.query: [] for d in above.detections}
    for detection in above.detections:
        of_query[detection.query].append(detection.class_index)
    K = MODEL.config.num_classes
    assert all(sorted(classes) == list(range(K)) for classes in of_query.values())
    best = max(pairs.detections, key=lambda d: d.score)
    same = next(
        d for d in above.detections if (d.query, d.class_index) == (best.query, best.class_index)
    )
    assert same.score == best.score and same.segmentations == best.segmentations


@dataclass
class _Clip:
    frames: list[int]
    scores: np.ndarray  # [n, K]
    logits: torch.Tensor  # [n, F, h, w]


def clips_of(p: Predictor, frames: np.ndarray) -> list[_Clip]:
    """Every clip of VNext's inference, each through the network alone."""
    config, T = p.config, len(frames)
    clips = []
    for start in range(0, T, config.clip_stride):
        end = start + config.clip_length
        if is_last := end >= T:
            start, end = max(0, T - config.clip_length), T
        resized = [resize_frame(frame, config.short_side) for frame in frames[start:end]]
        chunk = p.network.frames(resized, None)
        class_logits, params = p.network.instances(chunk.pool(0, end - start))
        scores = class_logits.sigmoid()
        best = scores.max(1)[0].topk(config.top_k)[1].tolist()
        data = ChunkCopy(chunk, 0).result()
        size = resized[0].shape[:2]
        logits = mask_logits(data, best, params[best], size, p.network.mask_stride)
        clips.append(_Clip(list(range(start, end)), scores[best].numpy(), logits))
        if is_last:
            break
    return clips


def joined(clips: list[_Clip], T: int, threshold: float) -> list[tuple[np.ndarray, torch.Tensor]]:
    """Tracks as tables over all clips and frames: their mean probabilities and mask logits."""
    tracks: list[dict[int, int]] = []  # clip -> instance
    for number, clip in enumerate(clips):
        overlap = np.zeros((len(tracks), len(clip.scores)))
        for row, track in enumerate(tracks):
            for column in range(len(clip.scores)):
                ious = []
                for earlier, instance in track.items():
                    shared = [t for t in clips[earlier].frames if t in clip.frames]
                    if not shared:
                        continue
                    a = clips[earlier].logits[instance].sigmoid()
                    a = a[[clips[earlier].frames.index(t) for t in shared]]
                    b = clip.logits[column].sigmoid()[[clip.frames.index(t) for t in shared]]
                    ious.append(float((a * b).sum() / (a + b - a * b).sum()))
                overlap[row, column] = np.mean(ious) if ious else 0
        overlap = np.where(overlap > threshold, overlap, 0)
        pairs = [(r, c) for r, c in zip(*linear_sum_assignment(-overlap)) if overlap[r, c] > 0]  # noqa: B905
        for row, column in pairs:
            tracks[row][number] = column
        taken = {column for _, column in pairs}
        tracks += [{number: c} for c in range(len(clip.scores)) if c not in taken]
    results = []
    for track in tracks:
        scores = np.mean([clips[n].scores[i] for n, i in track.items()], axis=0)
        total = torch.zeros(T, *clips[0].logits.shape[2:])
        count = torch.zeros(T, 1, 1)
        for n, i in track.items():
            total[clips[n].frames] += clips[n].logits[i]
            count[clips[n].frames] += 1
        results.append((scores, total / count))  # NaN in frames that no clip of it has
    return results


@settings(max_examples=10, deadline=None)
@given(T=st.integers(1, 12), length=st.integers(1, 6), stride=st.integers(1, 6))
def test_clips_are_joined_as_the_tables_say(T, length, stride):
    frames, stride = film(T), min(stride, length)
    p = predictor(
        mode="clips", clip_rule="vnext", label_rule="above", match_threshold=0.5,
        clip_length=length, clip_stride=stride, label_threshold=0.3,
    )  # fmt: skip
    expected = []
    for scores, logits in joined(clips_of(p, frames), T, 0.5):
        masks = []
        for frame in logits:
            if frame.isnan().any():
                masks.append(None)
                continue
            ((_, job),) = compress_masks(frame[None], frames.shape[1:3], MaskEncoder())
            masks.append(decode_mask(job.result()[0]))
        if any(mask is not None and mask.any() for mask in masks):
            for k, score in enumerate(scores):
                if score > 0.3:
                    expected.append((k, float(score), masks))
    expected.sort(key=lambda track: track[:2])
    actual = sorted(p.predict(frames).detections, key=lambda d: (d.class_index, d.score))
    assert [d.class_index for d in actual] == [k for k, _, _ in expected]
    for detection, (_, score, masks) in zip(actual, expected, strict=True):
        assert detection.score == pytest.approx(score, abs=1e-5)
        for t, mask in enumerate(masks):
            own = detection.mask(t)
            assert (own is None) == (mask is None)
            if mask is not None:
                assert (own != mask).mean() < 0.01  # a logit of 0 within rounding


def matcher(rule: str, threshold: float) -> ClipMatcher:
    config = EvalConfig(mode="clips", clip_rule=rule, match_threshold=threshold)
    return ClipMatcher(StreamContext(network=None, config=config, chunk_frames=1))


def column(place: int, strength: float = 9.0) -> torch.Tensor:
    maps = torch.full((3, 8, 8), -strength)
    maps[:, :, place] = strength
    return maps


def add(m: ClipMatcher, first: int, logits: torch.Tensor, scores=(0.5, 0.5)) -> None:
    m.add(first, torch.tensor([scores]), logits[None], torch.full((1, 3, 4), 0.5), (8, 8))


@pytest.mark.parametrize("rule,is_joined", [("mean_mask", False), ("vnext", True)])
def test_overlaps_are_averaged_clip_by_clip(rule, is_joined):
    """Two earlier clips saw the object at different places, the first of them more surely. The mean
    mask is where the first saw it; clip by clip, the overlap with the second counts one half."""
    m = matcher(rule, 0.2)
    both = torch.maximum(column(1, 9.0), column(2, 9.0))
    add(m, 0, column(1, 20.0))
    add(m, 0, both)
    assert m.num_tracks == 1
    add(m, 0, column(2, 9.0))
    assert (m.num_tracks == 1) is is_joined


@pytest.mark.parametrize("rule,length", [("mean_mask", 4), ("vnext", 5)])
def test_the_last_clip_begins_earlier_instead_of_being_shorter(rule, length, monkeypatch):
    lengths = []
    run = ClipStream._run_clip

    def noted(stream, matcher, start, stop):
        lengths.append(stop - start)
        run(stream, matcher, start, stop)

    monkeypatch.setattr(ClipStream, "_run_clip", noted)
    predictor(mode="clips", clip_rule=rule, clip_length=5, clip_stride=4).predict(film(8))
    assert lengths == [5, length]


def test_scores_are_mean_probabilities():
    one, other = torch.tensor([2.0]), torch.tensor([-4.0])
    logits = matcher("mean_mask", 0.01)
    add(logits, 0, column(1), (float(one), 0))
    add(logits, 1, column(1), (float(other), 0))
    probabilities = matcher("vnext", 0.01)
    add(probabilities, 0, column(1), (float(one.sigmoid()), 0))
    add(probabilities, 1, column(1), (float(other.sigmoid()), 0))
    (a,), (b,) = logits.tracks, probabilities.tracks
    assert float((a.class_logits[0] / 2).sigmoid()) == pytest.approx(
        float(torch.tensor(-1.0).sigmoid())
    )
    assert float(b.class_logits[0] / 2) == pytest.approx(
        (float(one.sigmoid()) + float(other.sigmoid())) / 2
    )


def test_portions_and_moments_do_not_matter():
    frames = film(11)
    changes = dict(
        mode="clips", clip_rule="vnext", clip_length=5, clip_stride=3, label_rule="above"
    )
    whole = predictor(label_threshold=0.2, **changes)
    expected = whole.predict(frames)
    for chunk_frames in (1, 4, 20):
        p = predictor(label_threshold=0.2, **{**changes, "chunk_frames": chunk_frames})
        with p.stream() as stream:
            for frame in frames:
                stream.push(frame)
                stream.tracks()  # a look in between changes nothing
            actual = stream.tracks()
        for a, b in zip(actual.detections, expected.detections, strict=True):
            assert (a.query, a.class_index) == (b.query, b.class_index)
            assert a.score == pytest.approx(b.score, abs=1e-5)
