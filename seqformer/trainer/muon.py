"""Muon for the matrices inside the network, AdamW for everything else, as one optimiser.

A matrix moves by its momentum with all singular values brought to about one (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/), times a factor that makes the step as long as AdamW's
(Liu et al. 2025, arXiv:2502.16982), so that learning rates and weight decay mean the same. Networks
that learn from nothing learn in fewer steps. Convolutions count as matrices [outputs, the rest];
the three matrices of an attention that are stored as one are three. Embeddings, sampling offsets
and the layers that make results stay with AdamW: their rows and columns are no directions of one
space.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_NOT_INSIDE = (
    *("class_embed", "query_embed", "level_embed", "reference_points", "controller"),
    *("sampling_offsets", "relative_position_bias_table"),
)
_THREE_IN_ONE = ("in_proj_weight", "attn.qkv.weight")
SMALLEST_SIDE = 16
"""Rows and columns that a matrix must have at least."""
MOMENTUM = 0.95
LIKE_ADAMW = 0.2
"""Root mean square of AdamW's steps, in learning rates."""
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def is_inside(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes a parameter, by its published name and its shape."""
    if parameter.dim() < 2 or any(part in name for part in _NOT_INSIDE):
        return False
    return min(len(parameter), parameter[0].numel()) >= SMALLEST_SIDE


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices whose singular values are all brought into about 0.7 to 1.2, by five steps of a
    polynomial of the Newton-Schulz kind.

    Args:
        matrices: [n, rows, columns]; of any length but zero.

    Returns: [n, rows, columns].
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class MuonAdamW(torch.optim.AdamW):
    """See the module; state and protocol (`found_inf`) are those of a fused `AdamW`, but a matrix
    has a `momentum` only."""

    def __init__(
        self, groups: Sequence[dict[str, Any]], weight_decay: float, factor: float
    ) -> None:
        """
        Args:
            groups: dicts with lr and params, a list of (published name, parameter).
            weight_decay: times the learning rate, of every parameter.
            factor: on the learning rate of matrices.
        """
        named = [pair for group in groups for pair in group["params"]]
        self._parts = {
            parameter: 3 if name.endswith(_THREE_IN_ONE) else 1
            for name, parameter in named
            if is_inside(name, parameter)
        }
        self._factor = factor
        super().__init__(groups, weight_decay=weight_decay, fused=True)

    def takes(self, parameter: Tensor) -> bool:
        """Whether a parameter is moved by Muon."""
        return parameter in self._parts

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; without effect where `found_inf` is 1. Gradients stay."""
        skipped = getattr(self, "found_inf", None)
        taken: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None and self.takes(parameter):
                    taken.append((parameter, parameter.grad))
                    for part in self._matrices(parameter):
                        by_shape[part[0].shape].append(part)
            for parts in by_shape.values():
                self._move(parts, self._factor * group["lr"], group["weight_decay"], skipped)
        counters = [self.state[parameter]["step"] for parameter, _ in taken]
        if skipped is None:
            torch._foreach_add_(counters, 1.0)
        else:  # a list: what is a tensor alone is read by the host
            torch._foreach_add_(counters, [1 - skipped] * len(counters))
        for parameter, _ in taken:
            parameter.grad = None
        try:
            return super().step(closure)
        finally:
            for parameter, gradient in taken:
                parameter.grad = gradient

    def _matrices(self, parameter: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Weight, gradient and momentum of the matrices of a parameter, as views."""
        state = self.state[parameter]
        if "momentum" not in state:
            # AdamW wants its counter in every state that is loaded.
            state["step"] = torch.zeros((), device=parameter.device)
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        tensors = [parameter, parameter.grad, state["momentum"]]
        if not parameter.is_contiguous():  # channels are innermost; the order of columns is free
            tensors = [tensor.permute(0, 2, 3, 1) for tensor in tensors]
        rows = (tensor.flatten(1).chunk(self._parts[parameter]) for tensor in tensors)
        return list(zip(*rows, strict=True))

    @staticmethod
    def _move(
        parts: Sequence[tuple[Tensor, Tensor, Tensor]],
        rate: float,
        weight_decay: float,
        skipped: Tensor | None,
    ) -> None:
        """Matrices of one shape, all in one go."""
        weights, gradients, momenta = (list(column) for column in zip(*parts, strict=True))
        gradient = torch.stack(gradients)
        before = torch.stack(momenta)
        momentum = gradient.add(before, alpha=MOMENTUM)
        step = orthogonalised(gradient.add_(momentum, alpha=MOMENTUM))
        step = step * (rate * LIKE_ADAMW * max(step.shape[1:]) ** 0.5)
        step.add_(torch.stack(weights), alpha=rate * weight_decay)
        if skipped is not None:
            is_skipped = skipped.to(torch.bool)
            step = torch.where(is_skipped, 0, step)
            momentum = torch.where(is_skipped, before, momentum)
        torch._foreach_sub_(weights, list(step.unbind()))
        torch._foreach_copy_(momenta, list(momentum.unbind()))
