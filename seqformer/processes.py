"""Helper processes: they serve their parent and nobody else.

Schedulers send SIGTERM to every process of a job, a terminal sends SIGINT. Helpers leave the answer
to their parent, from their first moment on, and end when it ends, however that happens.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, spawn
from typing import Any

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
_SIGNALS = {getattr(signal, name) for name in _NAMES if hasattr(signal, name)}
_CAN_BLOCK = hasattr(signal, "pthread_sigmask")
_PR_SET_PDEATHSIG = 1


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started inside never see the signals that ask a job to end.

    They inherit this thread's mask of blocked signals, forked or spawned. What comes meanwhile
    reaches this process after the block. SIGKILL is what ends such a process.
    """
    before = _block(_SIGNALS)
    command_line = spawn.get_command_line
    spawn.get_command_line = lambda **options: _quietly(command_line(**options))
    try:
        yield
    finally:
        spawn.get_command_line = command_line
        if _CAN_BLOCK:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _block(signals: set[signal.Signals]) -> set[Any]:
    """Block signals in this thread, on systems that can; those that were blocked before."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, signals) if _CAN_BLOCK else set()


def _quietly(command: list[str]) -> list[str]:
    """The same command for a process that is spawned; it prints no traceback when its parent ends
    before it has told what is to be done."""
    if "-c" not in command:  # a frozen program
        return command
    program = command.index("-c") + 1
    quiet = (
        "import sys; usual = sys.excepthook; "
        "sys.excepthook = lambda kind, *rest: kind is EOFError or usual(kind, *rest); "
    )
    return [*command[:program], quiet + command[program], *command[program + 1 :]]


def hear_sigterm() -> None:
    """In a process started by `deaf_children`: SIGTERM ends it from now on."""
    if _CAN_BLOCK:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def exit_with_parent() -> None:
    """Call first in a helper process: it ends when its parent does, and is deaf as said above.

    On Linux the system sees to it, even where the process hangs or is stopped. It acts when the
    *thread* that started the process ends, so start helpers from one that stays.
    """
    _block(_SIGNALS)  # where a server forked it, it is not deaf
    parent = parent_process()
    if parent is None:
        return
    if sys.platform == "linux" and os.getppid() == parent.pid:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent.pid:  # it ended before the line above
            os._exit(1)
        return
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def serve(name: str, work: Callable[..., Any], *arguments: Any) -> None:
    """The whole life of a helper process: `work(*arguments)`; a failure is one sentence."""
    from seqformer.command import Command

    exit_with_parent()
    command = Command(name)
    try:
        work(*arguments)
    except KeyboardInterrupt:
        os._exit(1)
    except BrokenPipeError:  # the parent reads no more
        os._exit(1)
    except Exception as error:
        command.say(command.explain(error)[1])
        sys.stderr.flush()
        os._exit(1)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
