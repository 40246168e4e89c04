"""Operators that a step of the published ResNet-50 dispatches; small frames change none."""

from __future__ import annotations

import torch

from bench.cases.training import training_case
from bench.launches import counts
from bench.model_inputs import ModelSize

CPU = torch.device("cpu")


def test_a_step_dispatches_at_most_a_quarter_of_the_published_operators():
    """Counted below autograd, with views."""
    case = training_case(ModelSize(frames=5, height=64, width=64))
    found = {side.name: counts(side.build(CPU), CPU)["operators"] for side in case.sides_on(CPU)}
    assert found["ours"] <= 0.25 * found["published"], found
