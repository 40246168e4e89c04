"""The temporal softmax (paper section 3.2) as running sums: frames may come in any chunks.

An instance query collects what its box queries found in T frames, `sum_t w_t s_t` with `w = softmax
over t of the time logits`. Per query that is a maximum m, a denominator `sum_t exp(l_t - m)` and a
weighted sum `sum_t exp(l_t - m) s_t`; two such triples of different frames merge into the triple of
all of them, exactly, in any order. It is all that the frames of a clip ever tell each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TemporalPool:
    """What a set of frames adds up to, for D decoder layers; float32 or wider, whatever came in.

    Attributes:
        maximum: [D, B, Q, 1], largest time logit; a mere scale, so no gradient passes through it.
        denominator: [D, B, Q, 1], sum over frames of exp(logit - maximum), at least 1.
        weighted: [D, B, Q, C], sum over frames of exp(logit - maximum) * sampled.
    """

    maximum: Tensor
    denominator: Tensor
    weighted: Tensor

    @classmethod
    def of(cls, time_logits: Sequence[Tensor], sampled: Sequence[Tensor]) -> TemporalPool:
        """Pool the frames of one chunk.

        Args:
            time_logits: D tensors [B, T, Q, 1].
            sampled: D tensors [B, T, Q, C].
        """
        parts = []
        for logits, samples in zip(time_logits, sampled, strict=True):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            maximum = logits.detach().amax(dim=1)  # [B, Q, 1]
            weights = (logits - maximum[:, None]).exp()
            parts.append((maximum, weights.sum(dim=1), (weights * samples).sum(dim=1)))
        return cls(*(torch.stack(part) for part in zip(*parts, strict=True)))

    def merge(self, other: TemporalPool) -> TemporalPool:
        """The pool of both sets of frames."""
        maximum = torch.maximum(self.maximum, other.maximum)
        own, others = (self.maximum - maximum).exp(), (other.maximum - maximum).exp()
        return TemporalPool(
            maximum,
            self.denominator * own + other.denominator * others,
            self.weighted * own + other.weighted * others,
        )

    def pooled(self) -> Tensor:
        """[D, B, Q, C]: `sum_t w_t s_t` over all frames so far."""
        return self.weighted / self.denominator
