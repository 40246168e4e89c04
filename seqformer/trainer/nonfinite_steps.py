"""Steps whose loss or gradient was not finite: skipped, counted, written down, and in the end too
many.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

from seqformer.files import append_line

logger = logging.getLogger(__name__)

NONFINITE_STEPS_NAME = "skipped_steps.jsonl"
MAX_OVERFLOWS = 25
"""fp16 gradients that overflow in a row while the loss scale halves; more have another cause."""


class NonFiniteLossError(FloatingPointError):
    """Losses or gradients are NaN or infinite too often; training makes no sense any more."""


@dataclass(frozen=True)
class NonFiniteStep:
    """A step that updated nothing.

    Attributes:
        step: its number, from 1.
        reason: which losses, or that only the gradient, were not finite.
        clips: where it happened, or the whole global batch where that cannot be told.
        is_loss_finite: whether only the gradient overflowed.
    """

    step: int
    reason: str
    clips: list[str]
    is_loss_finite: bool

    @classmethod
    def of(cls, step: int, reports: list[tuple[dict[str, float], list[str]]]) -> NonFiniteStep:
        """From every process's own losses and clips."""
        guilty = [r for r in reports if not math.isfinite(r[0]["loss"])]
        clips = [clip for _, ids in guilty or reports for clip in ids]
        if not guilty:
            return cls(step, "the gradient is not finite, though the loss is", clips, True)
        ignored = ("loss", "grad_norm", "skipped", "class_error", "cardinality_error")
        parts = {k for mine, _ in guilty for k, v in mine.items() if not math.isfinite(v)}
        named = sorted(p for p in parts - {*ignored} if not p.startswith("cardinality"))
        return cls(step, f"the loss is not finite ({', '.join(named)})", clips, False)

    def __str__(self) -> str:
        return f"step {self.step}: {self.reason} on clips: {'; '.join(self.clips)}"


class NonFiniteSteps:
    """The bad steps of a run so far.

    Attributes:
        count: how many count towards the limit.
    """

    def __init__(
        self, output: Path, limit: int, *, is_main: bool, scales_loss: bool, count: int = 0
    ) -> None:
        """
        Args:
            output: the run's folder.
            limit: how many are put up with.
            is_main: whether this process writes them down.
            scales_loss: whether a loss scale is being searched (fp16), so that now and then a
                gradient overflows and nothing is wrong.
            count: of earlier sessions.
        """
        self.path, self.limit, self.count = output / NONFINITE_STEPS_NAME, limit, count
        self._is_main, self._scales_loss = is_main, scales_loss
        self._overflows = 0
        self._overflows_in_all = self._sound = 0

    def take_note(self, bad: list[NonFiniteStep], num_sound: int) -> None:
        """Count these, seen among `num_sound` others; the same on every process.

        Raises: NonFiniteLossError with the last reason when they exceed the limit.
        """
        self._sound += num_sound
        if num_sound:
            self._overflows = 0
        for step in bad:
            if step.is_loss_finite and self._scales_loss:
                self._overflows += 1
                self._overflows_in_all += 1
                if self._overflows <= MAX_OVERFLOWS:
                    continue
            self.count += 1
            self._write(step)
            if self.count > self.limit:
                raise NonFiniteLossError(
                    f"{step}. {self.count} step(s) were skipped for this, --max-skipped-steps "
                    f"allows {self.limit}"
                )
            logger.warning("%s; skipped (%d of at most %d)", step, self.count, self.limit)

    def say_overflows(self, scale: float) -> None:
        """Between two lines of the log no step has updated anything.

        Args:
            scale: of the loss, now.
        """
        if self._is_main and self._overflows:
            logger.warning(
                "the last %d step(s) updated nothing: their fp16 gradients overflowed while the "
                "loss scale is being found (now %g); after %d in a row this counts as an error",
                self._overflows,
                scale,
                MAX_OVERFLOWS,
            )

    def say_if_all(self) -> None:
        """At the end of a run: whether not one of its steps has updated anything."""
        if self._is_main and self._overflows_in_all and not self._sound:
            logger.warning(
                "all %d step(s) were skipped, because their fp16 gradients overflowed: the weights "
                "are as they were; train for more steps, or with --precision bf16 or fp32",
                self._overflows_in_all,
            )

    def _write(self, step: NonFiniteStep) -> None:
        if not self._is_main:
            return
        record = {"step": step.step, "reason": step.reason, "clips": step.clips}
        append_line(self.path, json.dumps(record))
