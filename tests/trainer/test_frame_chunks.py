"""A long clip in portions: the gradients of the whole, whatever the portions and processes."""

import pytest
import torch

from seqformer.distributed.context import DistributedContext
from seqformer.trainer import frame_chunks
from tests.trainer.one_step import assert_same, build_step, step_and_gradients, take_step

ONE = DistributedContext()
FRAMES = 5


@pytest.fixture(scope="module")
def whole():
    """Six clips of five frames, float64."""
    return step_and_gradients(ONE, "none", 1, {}, {"frames": FRAMES})


@pytest.mark.parametrize("frame_chunk,micro_batches", [(1, 1), (2, 2), (3, 6)])
def test_portions_equal_the_whole_clip(whole, frame_chunk, micro_batches):
    got = step_and_gradients(
        ONE, "none", micro_batches, {"frame_chunk": frame_chunk}, {"frames": FRAMES}
    )
    assert_same(got, whole, 1e-9)


def modes(parallel, ways):
    return [
        step_and_gradients(parallel, mode, 1, {"frame_chunk": 2}, {"frames": FRAMES})
        for mode in ways
    ]


@pytest.mark.distributed
def test_portions_on_two_processes_equal_the_whole_batch_on_one(lasting_processes, whole):
    ways = ["ddp", "fsdp"]
    for results in lasting_processes.run(2, modes, ways):
        for way, result in zip(ways, results, strict=True):
            assert_same(result, whole, 1e-9, way)


def test_recomputation_replays_dropout(monkeypatch):
    """What a portion gives the second time is what the losses were made of."""
    go_back = frame_chunks._go_back
    seen = []

    def compare(kept, start, states, mask_features, pool):
        boxes = torch.stack(states.boxes)
        seen.append(torch.equal(boxes, kept.boxes[:, :, start : start + boxes.shape[2]]))
        go_back(kept, start, states, mask_features, pool)

    monkeypatch.setattr(frame_chunks, "_go_back", compare)
    step = build_step(ONE, "none", frame_chunk=2, dropout=0.3)
    take_step(step, 1, clips=2, frames=5)
    assert seen == [True, True, True]
    monkeypatch.setattr(frame_chunks, "_restore", lambda device, states: None)
    take_step(step, 1, clips=2, frames=5)
    assert seen[3:] == [False, False, False]
