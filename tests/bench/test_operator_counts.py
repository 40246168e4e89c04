"""A step dispatches at most a quarter of the operators of the published formulation."""

import torch
from torch.profiler import ProfilerActivity, profile

from bench.cpu import Case, build_step

OPERATORS = ("aten::", "seqformer_kernels::", "mkldnn::")
"""Namespaces of what is dispatched; what an operator calls inside is its own affair."""

CASE = Case(height=64, width=96, model={"hidden_dim": 64, "ffn_dim": 64, "num_queries": 20})
"""ResNet-50, five frames and all layers as in the benchmark; only sizes are smaller, which the
number of operators does not depend on."""


def dispatched(side: str) -> int:
    """Operators of a training step that no other operator has called."""
    step = build_step("training", side, CASE, None)
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    return sum(is_operator(e) and not is_called(e) for e in profiled.events())


def is_operator(event) -> bool:
    return event.name.startswith(OPERATORS)


def is_called(event) -> bool:
    caller = event.cpu_parent
    while caller is not None and not is_operator(caller):
        caller = caller.cpu_parent
    return caller is not None


def test_operators_within_operators_are_not_counted():
    x = torch.randn(2, 3, 4, 4)
    weight = torch.randn(5, 3, 1, 1)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        torch.conv2d(x, weight)  # calls aten::convolution, which calls others
    assert sum(is_operator(e) for e in profiled.events()) > 1
    assert sum(is_operator(e) and not is_called(e) for e in profiled.events()) == 1


def test_a_step_dispatches_at_most_a_quarter_of_the_published():
    assert dispatched("ours") <= 0.25 * dispatched("published")
