"""Frames at once: from the memory there is, and fewer where it was too small."""

from __future__ import annotations

import json
import weakref

import pytest
import torch
from PIL import Image

from seqformer.config import EvalConfig
from seqformer.data.video_sources import find_videos
from seqformer.inference import Predictor, runner
from seqformer.inference.chunk_size import BYTES_PER_PIXEL, default_chunk_frames, free_memory
from seqformer.inference.results_file import PartialResults
from tests.inference.small_model import film, small_model


def gpu(monkeypatch, free, reserved, allocated):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**40))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)
    return torch.device("cuda", 1)


def test_what_the_allocator_keeps_for_later_is_free(monkeypatch):
    device = gpu(monkeypatch, free=2**30, reserved=7 * 2**30, allocated=3 * 2**30)
    assert free_memory(device) == 5 * 2**30
    config = EvalConfig(short_side=360)
    per_frame = 360 * 640 * BYTES_PER_PIXEL
    device = gpu(monkeypatch, free=0, reserved=17 * per_frame, allocated=0)
    assert default_chunk_frames(device, config) == 8
    device = gpu(monkeypatch, free=0, reserved=17 * per_frame, allocated=16 * per_frame)
    assert default_chunk_frames(device, config) == 1


@pytest.mark.parametrize(
    ("short_side", "threads", "expected"),
    [(64, 1, 8), (128, 4, 8), (160, 1, 2), (160, 2, 8), (240, 3, 4), (360, 1, 2), (360, 16, 2)],
)
def test_frames_go_through_a_cpu_together(monkeypatch, short_side, threads, expected):
    """Small ones; and more of them where there are several threads."""
    monkeypatch.setattr("seqformer.inference.chunk_size.free_memory", lambda device: 2**34)
    config = EvalConfig(short_side=short_side)
    assert default_chunk_frames(torch.device("cpu"), config, threads) == expected


class Activations:
    """What a forward pass keeps."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs two videos of eight frames, eight at once, on a machine that holds only so many."""
    folder = tmp_path / "videos"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for index, frame in enumerate(film(8)):
            Image.fromarray(frame).save(folder / name / f"{index}.png")

    def at_most(limit):
        config = EvalConfig(short_side=32, chunk_frames=8, top_k=2)
        predictor = Predictor(small_model(), config=config, device="cpu")
        network, asked, alive = predictor.network, [], []
        compute = network.frames

        def frames(resized, before):
            asked.append(len(resized))
            activations = Activations()
            alive.append(weakref.ref(activations))
            if len(resized) > limit:
                raise torch.OutOfMemoryError("no")
            return compute(resized, before)

        network.frames = frames
        freed = []
        monkeypatch.setattr(
            runner, "_free", lambda device: freed.append([r() for r in alive if r() is not None])
        )
        partial = PartialResults(tmp_path / "partial.jsonl", {}, fresh=True)
        sources = find_videos(folder)
        failures = runner.predict_videos(predictor, sources, partial, show_progress=False)
        partial.close()
        assert predictor.config == config, "the next video gets as many frames again"
        return failures, asked, freed, partial

    return at_most


def test_a_video_that_does_not_fit_is_tried_with_fewer_frames_at_once(run):
    failures, asked, freed, partial = run(2)
    assert failures == [] and len(partial.finished) == 2
    assert asked == [8, 8] + 2 * [4, 2, 2, 2, 2]
    assert freed == 4 * [[]], "what the failed pass kept is gone before the cache is emptied"
    (whole, *_) = run(8)[3].finished.values()
    assert json.dumps(whole[0]["segmentations"]) == json.dumps(
        next(iter(partial.finished.values()))[0]["segmentations"]
    )


def test_a_video_that_never_fits_is_one_sentence(run):
    failures, asked, _, partial = run(0)
    assert asked == [8, 8] + 2 * [4, 2, 1] and not partial.finished
    assert all("does not fit into the memory of cpu" in failure.sentence for failure in failures)
