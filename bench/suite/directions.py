"""Forward, backward or both of an operator, as the sides of a case call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from bench.suite.schema import Call, Cost, Direction

Pass = Literal["forward", "backward", "both"]
PASSES: tuple[Pass, ...] = ("both", "forward", "backward")
"""In order of importance."""


class Inputs(Protocol):
    """Arguments of an operator's call."""

    def leaves(self) -> list[Tensor]:
        """New tensors that gradients are asked for."""
        ...


def call_of(
    run: Callable[[Any, list[Tensor]], Any],
    inputs: Inputs,
    direction: Direction,
    grad: Any = None,
) -> Call:
    """One direction of `run(inputs, leaves)`.

    Args:
        run: the operator on the inputs and their leaves; gives a tensor or several.
        inputs: arguments.
        direction: "forward" keeps no graph and gives the output; "backward" gives the gradients of
            the leaves, again and again on one graph; "both" gives the output and the gradients.
        grad: gradient of the output, or of each; None where it is a number.
    """
    if direction == "forward":
        fixed = [leaf.detach() for leaf in inputs.leaves()]
        return torch.no_grad()(lambda: run(inputs, fixed))
    leaves = inputs.leaves()
    if direction == "backward":
        output = run(inputs, leaves)
        return lambda: list(torch.autograd.grad(output, leaves, grad, retain_graph=True))

    def both() -> list[Tensor]:
        output = run(inputs, leaves)
        gradients = torch.autograd.grad(output, leaves, grad)
        outputs = [output] if isinstance(output, Tensor) else output
        return [*(tensor.detach() for tensor in outputs), *gradients]

    return both


def cost_of(
    moved: dict[str, int], flops: dict[str, int], direction: Direction, half_flops: int = 0
) -> Cost:
    """Cost of a direction, from those of "forward" and "backward"."""
    parts = ("forward", "backward") if direction == "both" else (direction,)
    return Cost(
        bytes=sum(moved[part] for part in parts),
        flops=sum(flops[part] for part in parts),
        half_flops=half_flops,
    )
