"""The losses of some steps, which stay on the device until they are told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seqformer.distributed.context import DistributedContext
from seqformer.trainer.nonfinite_steps import NonFiniteStep


@dataclass
class LossWindow:
    """The steps since the last fetch, on the device, and since the last log line, on the host."""

    parallel: DistributedContext
    fetched: list[dict[str, float]] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)
    _pending: list[tuple[int, list[str], Tensor]] = field(default_factory=list)

    def add(self, step: int, clip_ids: list[str], losses: dict[str, Tensor]) -> None:
        """Remember a step's scalars, `loss`, `grad_norm` and `skipped` among them, without waiting
        for any."""
        self._names = self._names or list(losses)
        values = torch.stack([losses[name].detach().float() for name in self._names])
        self._pending.append((step, clip_ids, values))

    def fetch(self) -> tuple[list[NonFiniteStep], int]:
        """Bring all pending steps to the host, as the mean over processes, in one copy.

        Every process must call this at the same step.

        Returns: the skipped steps, which leave no trace in the means, and the number of others.
        """
        if not self._pending:
            return [], 0
        own = torch.stack([values for _, _, values in self._pending])
        both = torch.stack([own, self.parallel.mean(own.clone())]).tolist()
        pending, self._pending = self._pending, []
        bad = []
        for (step, clip_ids, _), own_row, mean_row in zip(pending, *both, strict=True):
            losses = dict(zip(self._names, mean_row, strict=True))
            if losses.pop("skipped"):
                mine = dict(zip(self._names, own_row, strict=True))
                bad.append(NonFiniteStep.of(step, self.parallel.gather((mine, clip_ids))))
            else:
                self.fetched.append(losses)
        return bad, len(pending) - len(bad)

    def take_mean(self) -> dict[str, float]:
        """Mean of every scalar over the fetched steps, which are then forgotten; empty if none."""
        steps, self.fetched = self.fetched, []
        if not steps:
            return {}
        return {name: math.fsum(s[name] for s in steps) / len(steps) for name in steps[0]}
