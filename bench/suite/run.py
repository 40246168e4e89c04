"""A run that loses nothing: its record is written after every stage, and a failure is an entry.

Time on a GPU is lent. One operator that raises, a driver that refuses everything after an illegal
access, a time limit: none of them may cost what was measured before.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench.suite import record

T = TypeVar("T")
INTERRUPTED = "the run was interrupted"
NO_TIME = "the time was used up"
ALWAYS = float("-inf")
"""What a stage needs that is begun in any case."""


class Run:
    """Stages of one record.

    Attributes:
        record: as `bench.suite.record` describes it. Under `extra` stand `failures` (stage -> what
            was raised) and `left_out` (stage -> why it was not begun).
    """

    def __init__(
        self,
        new_record: dict[str, Any],
        path: Path | None,
        budget: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """
        Args:
            path: where the record is written; None for nowhere.
            budget: seconds after which no stage is begun.
        """
        self.record, self._path, self._clock = new_record, path, clock
        self._began, self._budget = clock(), budget
        self._is_interrupted = False
        self.extra: dict[str, Any] = new_record["extra"]
        self.extra |= {"budget_seconds": budget, "failures": {}, "left_out": {}}
        self.save()

    def save(self) -> None:
        """Write the record as it is. A disk that refuses is said and does not end the run."""
        self.extra["seconds"] = self._clock() - self._began
        if self._path is None:
            return
        try:
            record.write(self.record, self._path)
        except OSError as error:
            print(f"the record is not on disk: {error}", file=sys.stderr)

    def seconds_left(self) -> float:
        """Of the budget."""
        return self._budget - (self._clock() - self._began)

    def stage(self, name: str, call: Callable[[], T], needs: float = 0.0) -> T | None:
        """Do one thing and write the record.

        Args:
            name: of the stage, in `failures` or `left_out` if it does not succeed.
            needs: seconds; with fewer left it is not begun.

        Returns: what `call` gives; None where it raised, was interrupted or not begun.
        """
        if needs != ALWAYS and (self._is_interrupted or self.seconds_left() < needs):
            self.extra["left_out"][name] = INTERRUPTED if self._is_interrupted else NO_TIME
            self.save()
            return None
        try:
            return call()
        except KeyboardInterrupt:
            self._is_interrupted = True
            self.extra["left_out"][name] = INTERRUPTED
        except Exception as error:
            self.extra["failures"][name] = sentence(error)
            print(f"{name}: {sentence(error)}", file=sys.stderr, flush=True)
        finally:
            self.save()
        return None


def sentence(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def release(device: torch.device) -> str | None:
    """Give back what the allocator keeps. Returns: what is wrong; after an illegal access, a GPU
    refuses everything, this too."""
    if device.type != "cuda":
        return None
    try:
        torch.cuda.empty_cache()
    except RuntimeError as error:
        return sentence(error)
    return None
