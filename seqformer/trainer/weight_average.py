"""The exponential moving average of a model's weights, which is validated and exported.

It lies beside the weights on every process, whole or in shares as they are, and is updated from
them after every step. So processes need not speak of it, and checkpoints hold it as they hold the
weights. It depends on nothing but the weights and the number of the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from seqformer.model import SeqFormer, published_name


class WeightAverage:
    """The average of all trained weights; see `update`."""

    def __init__(self, model: SeqFormer, decay: float) -> None:
        """
        Args:
            model: as it is trained; under FSDP its parameters are shares.
            decay: what each step retains of the average, in (0, 1).
        """
        self.decay = decay
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._averages = {n: p.detach().clone() for n, p in trained.items()}
        self._weights = [_local(p.detach()) for p in trained.values()]
        self._own = [_local(average) for average in self._averages.values()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step.

        Args:
            step: its number, from 1. Early averages are shorter: of step n at most (1 + n) /
                (10 + n) is retained.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._own, self._weights, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """The average by published parameter name; loading into the tensors restores it."""
        return {published_name(name): average for name, average in self._averages.items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the average as its weights; afterwards its own again."""
        with torch.no_grad():
            kept = [weight.clone() for weight in self._weights]
            torch._foreach_copy_(self._weights, self._own)
            try:
                yield
            finally:
                torch._foreach_copy_(self._weights, kept)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
