"""Ours dispatches at most a quarter of the operators of the published formulation."""

from __future__ import annotations

import torch

from bench.baselines.published import published_inference, published_training_losses
from bench.suite.launches import counts
from bench.suite.model_inputs import ModelSize, own_model_of, padding_and_targets, video
from bench.suite.ours import our_inference, our_training_losses
from seqformer.criterion import SetCriterion
from seqformer.model import inference_copy

CPU = torch.device("cpu")
SIZE = ModelSize(
    height=64,
    width=96,
    overrides=(("hidden_dim", 64), ("ffn_dim", 64), ("num_queries", 20)),
)
"""ResNet-50, five frames and all layers as in the benchmark; only tensors are smaller, which the
number of operators does not depend on."""


def test_a_training_step_dispatches_at_most_a_quarter():
    model = own_model_of(SIZE, CPU).train()
    images, (padding_mask, targets) = video(SIZE, CPU), padding_and_targets(SIZE, CPU)
    criterion = SetCriterion()

    def dispatched(losses_of) -> int:
        def step():
            model.zero_grad(set_to_none=True)
            losses = losses_of(model, images, padding_mask, targets)
            criterion.weighted_sum(losses).backward()

        step()
        return counts(step, CPU)["operators"]

    assert dispatched(our_training_losses) <= 0.25 * dispatched(published_training_losses)


def test_inference_of_frames_together_dispatches_at_most_a_quarter():
    model, images = own_model_of(SIZE, CPU).eval(), video(SIZE, CPU)
    ready = inference_copy(model)

    def ours():
        return our_inference(ready, images, chunk_frames=SIZE.frames)

    ours()
    published = counts(lambda: published_inference(model, images), CPU)
    assert counts(ours, CPU)["operators"] <= 0.25 * published["operators"]
