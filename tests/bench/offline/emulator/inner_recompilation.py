"""Run by `test_recompilation.py` without the interpreter: what the whole model asks Triton for."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch

from bench.offline.emulator.poison import filled_memory
from bench.offline.stand_in import standing_in
from bench.suite.model_inputs import TINY, ModelSize, own_model_of, padding_and_targets, video
from bench.suite.ours import our_inference, our_training_losses
from seqformer.model import inference_copy

CPU = torch.device("cpu")
STEPS, VIDEOS = 24, 12


@pytest.fixture
def gpu():
    """Nothing is run or compiled; outputs are zeros, on which the model goes on."""
    with standing_in(80, compiles=False) as gpu, filled_memory(0):
        yield gpu


def random_size(random: Random) -> ModelSize:
    """Clips, pixels and instances of a step; levels are two cells wide or more."""
    return replace(
        TINY,
        clips=random.randint(1, 2),
        height=random.randint(65, 160),
        width=random.randint(65, 160),
        instances=random.randint(0, 4),
    )


def test_nothing_is_compiled_after_the_first_training_step(gpu):
    random, model = Random(0), own_model_of(TINY, CPU).train()

    def step(size: ModelSize) -> None:
        mask, targets = padding_and_targets(size, CPU)
        mask[:, size.height // 2 :] = random.random() < 0.5
        losses = our_training_losses(model, video(size, CPU), mask, targets)
        sum(loss for loss in losses.values() if loss.requires_grad).backward()

    step(replace(TINY, clips=2, frames=2))
    first = gpu.compilations()
    assert sum(first.values()) > 5
    for _ in range(STEPS):
        step(random_size(random))
    assert gpu.compilations() == first


def test_nothing_is_compiled_after_the_first_video(gpu):
    random, model = Random(1), inference_copy(own_model_of(TINY, CPU).eval())

    def infer(size: ModelSize) -> None:
        our_inference(model, video(replace(size, clips=1), CPU), num_queries=3, chunk_frames=2)

    infer(replace(TINY, frames=4))
    first = gpu.compilations()
    assert sum(first.values()) > 2
    for _ in range(VIDEOS):
        infer(replace(random_size(random), frames=random.randint(1, 5)))
    assert gpu.compilations() == first
