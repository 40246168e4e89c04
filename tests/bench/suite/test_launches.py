"""Operators of a call."""

from __future__ import annotations

import torch

from bench.suite.launches import counts

CPU = torch.device("cpu")


def test_operators_and_views_are_counted():
    x = torch.ones(3, 4)
    assert counts(lambda: x.t() + x.t(), CPU) == {"operators": 3, "views": 2}


def test_backward_counts_too():
    x = torch.ones(3, requires_grad=True)
    forward = counts(lambda: (x * x).sum(), CPU)["operators"]
    both = counts(lambda: torch.autograd.grad((x * x).sum(), x), CPU)["operators"]
    assert both > forward == 2


def test_composites_count_alike_in_inference_mode():
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 3, 4)

    def call():
        return layer(x).flatten(1)

    found = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found.append(counts(call, CPU))
    assert found[0] == found[1] and found[0]["operators"] > 2
