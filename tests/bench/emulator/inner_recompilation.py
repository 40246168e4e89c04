"""Run by `test_recompilation.py` where kernels compile: Triton's own cache keys, counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch

from bench.emulator.session import EmulatedGPU, emulated
from bench.model_inputs import TINY, ModelSize, own_model_of, padding_and_targets, video
from bench.ours import our_inference, our_training_losses
from seqformer.model import inference_copy

CPU = torch.device("cpu")
STEPS, VIDEOS = 24, 12


@pytest.fixture
def gpu():
    """Only launched: other tests look at what the kernels do."""
    with emulated(80, dry=True) as gpu:
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


def forms(gpu: EmulatedGPU, since: int) -> str:
    """What was compiled since, by kernel."""
    return str(dict(Counter(c.kernel for c in gpu.compilations[since:])))


def test_nothing_is_compiled_after_the_first_training_step(gpu):
    random, model = Random(0), own_model_of(TINY, CPU).train()

    def step(size: ModelSize) -> None:
        mask, targets = padding_and_targets(size, CPU)
        mask[:, size.height // 2 :] = random.random() < 0.5
        losses = our_training_losses(model, video(size, CPU), mask, targets)
        sum(loss for loss in losses.values() if loss.requires_grad).backward()

    step(replace(TINY, clips=2, frames=2))
    first = len(gpu.compilations)
    assert first > 5
    for _ in range(STEPS):
        step(random_size(random))
    assert len(gpu.compilations) == first, forms(gpu, first)


def test_nothing_is_compiled_after_the_first_video(gpu):
    random, model = Random(1), inference_copy(own_model_of(TINY, CPU).eval())

    def infer(size: ModelSize) -> None:
        our_inference(model, video(replace(size, clips=1), CPU), num_queries=3, chunk_frames=2)

    infer(replace(TINY, frames=4))
    first = len(gpu.compilations)
    assert first > 2
    for _ in range(VIDEOS):
        infer(replace(random_size(random), frames=random.randint(1, 5)))
    assert len(gpu.compilations) == first, forms(gpu, first)
