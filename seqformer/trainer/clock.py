"""Where the time of a run goes: steps, waiting for data, validation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Where the time goes.

    Attributes:
        seconds_before: spent on this run by earlier sessions.
    """

    def __init__(self) -> None:
        self.seconds_before = 0.0
        self._began = time.perf_counter()
        self.start(0)

    def start(self, step: int) -> None:
        """Training begins, or goes on, at this step."""
        self._started = self._lap_started = time.perf_counter()
        self._first_step = self._lap_step = step
        self._waited = 0.0

    def seconds(self) -> float:
        """Time spent on the run, earlier sessions included."""
        return self.seconds_before + time.perf_counter() - self._began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, training waits for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, something other than training happens, which counts for no rate."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self._started += seconds
        self._lap_started += seconds

    def lap(self, step: int, total_steps: int, clips_per_step: int) -> dict[str, float]:
        """Time so far, and speed, share of waiting and time left as of the last lap."""
        now = time.perf_counter()
        seconds = max(now - self._lap_started, 1e-9)
        clips = (step - self._lap_step) * clips_per_step
        seconds_per_step = (now - self._started) / max(1, step - self._first_step)
        numbers = {
            "time": self.seconds(),
            "clips_per_second": clips / seconds,
            "data_wait": min(1.0, self._waited / seconds),
            "eta_seconds": (total_steps - step) * seconds_per_step,
        }
        self._lap_started, self._lap_step, self._waited = now, step, 0.0
        return numbers
