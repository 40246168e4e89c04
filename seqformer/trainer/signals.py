"""Signals that ask a run to save and end; schedulers send them before taking a node away."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_NAMES = ("SIGTERM", "SIGUSR1", "SIGHUP")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


class StopRequest:
    """Inside the block, these signals are remembered instead of ending the process.

    The training loop looks after every step. More of them change nothing: a scheduler and torchrun
    may both send one. Outside the main thread, where Python delivers no signals, it does nothing.

    Attributes:
        received: name of the signal that came; None so far.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._remember)
                for number in _SIGNALS
                if signal.getsignal(number) is not signal.SIG_IGN  # nohup ignores SIGHUP
            }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
