"""How every command ends: with an exit code and, when it fails, with one sentence.

An error that the user can mend (a ValueError or OSError of ours) is its own sentence. Any other one
is a fault of the program: its sentence names a file with the whole traceback, which is never
printed. This is the one place that catches every exception.
"""

from __future__ import annotations

import contextlib
import errno
import linecache
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from seqformer.files import WriteError, leave_locks

INTERRUPTED, TERMINATED, UNEXPECTED = 130, 143, 70
"""Exit codes: Ctrl-C; SIGTERM, SIGHUP or SIGUSR1; a fault of the program."""
CLOSED_OUTPUT = 1
"""Exit code where nobody reads the output any more (`... | head`)."""
_ROOT = Path(__file__).resolve().parents[1]
_OURS = tuple(str(_ROOT / name) + os.sep for name in ("seqformer", "kernels", "bench"))
_LONGEST = 600
_TIDYING_SECONDS = 20
"""After a request to end another one is not heard for so long."""
_POLL_SECONDS = 0.05
_NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT")
ENDING_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""Those that ask a command to end."""
_running: list[Command] = []
"""The commands that run now, the innermost last."""
_asked: list[signal.Signals] = []
"""The requests to end, as a library may catch the exceptions that they became."""
_delayed: list[signal.Signals] = []
"""Those that came while a module was imported."""


class Terminated(BaseException):
    """SIGTERM, SIGHUP or SIGUSR1 came; nothing but the command's end catches it."""


class Command:
    """One command of this process.

    Attributes:
        name: stands before every sentence.
        folder: where a traceback is written, if it can be; else the folder for temporary files.
        hint: what to do after an interruption, added to its sentence.
    """

    def __init__(self, name: str, *, error_code: int = 2, hint: str = "") -> None:
        """
        Args:
            name: as the user typed it.
            error_code: exit code for what the user can mend.
            hint: see above.
        """
        self.name, self.hint = name, hint
        self.folder: Path | None = None
        self._error_code = error_code
        self._expected: Callable[[], tuple[type[BaseException], ...]] = tuple

    def run(
        self,
        action: Callable[[], int | None],
        expected: Callable[[], tuple[type[BaseException], ...]] = tuple,
        ends_process: bool = False,
    ) -> int:
        """Act. Returns: the exit code. A SystemExit passes, as it has had its word.

        Args:
            action: gives the exit code; None is 0.
            expected: more types of errors that the user can mend; asked for when there is one.
            ends_process: the process ends after it; once asked to, it hears no second request.
        """
        self._expected = expected
        _running.append(self)
        try:
            return self._run(action, ends_process)
        finally:
            _running.remove(self)

    def _run(self, action: Callable[[], int | None], ends_process: bool) -> int:
        try:
            with _end_by_exception(ends_process):
                code = action() or 0
                sys.stdout.flush()
                return code
        except (KeyboardInterrupt, Terminated):
            return self._end_as_asked()
        except SystemExit:
            raise
        except BaseException as error:  # some libraries' errors are no Exceptions
            if _asked:  # a library caught the exception and was left half done
                return self._end_as_asked()
            if isinstance(error, OSError) and _is_of_output(error):
                leave_output()
                if error.errno == errno.EPIPE:
                    return CLOSED_OUTPUT
                reason = error.strerror or error
                return self._end(f"standard output cannot be written ({reason})", self._error_code)
            code, sentence = self.explain(error, self._expected())
            return self._end(sentence, code, at_once=getattr(error, "ends_at_once", False))

    def explain(
        self, error: BaseException, expected: tuple[type[BaseException], ...] = ()
    ) -> tuple[int, str]:
        """Exit code and sentence of an error. Writes its traceback where the sentence is not one
        of ours."""
        known = isinstance(error, (ValueError, OSError, *expected))
        if known and (_is_ours(error) or isinstance(error, expected)):
            return self._error_code, sentence_of(error)
        if is_out_of_memory(error):
            what, code = f"out of memory ({sentence_of(error)})", self._error_code
        elif isinstance(error, ImportError):
            what, code = (
                f"{sentence_of(error)}; install the project again (README)",
                self._error_code,
            )
        elif known:
            what, code = sentence_of(error), self._error_code
        else:
            what, code = f"unexpected {type(error).__name__}: {sentence_of(error)}", UNEXPECTED
        return code, f"{what}; {self._keep(error)}"

    def say(self, sentence: str) -> None:
        """One line on standard error, with the name and, among several processes, the rank."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{self.name}: {_rank()}{sentence}\n")
            sys.stderr.flush()

    def _end_as_asked(self) -> int:
        hint = f"; {self.hint}" if self.hint else ""
        if _asked and _asked[0] != signal.SIGINT:
            return self._end(f"stopped by {_asked[0].name}{hint}", TERMINATED)
        return self._end(f"interrupted{hint}", INTERRUPTED)

    def _end(self, sentence: str, code: int, at_once: bool = False) -> int:
        self.say(sentence if code in (INTERRUPTED, TERMINATED) else f"error: {sentence}")
        if at_once or (_rank() and code):
            # Threads may wait for other processes; nothing of this one is worth waiting for.
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            os._exit(code)
        return code

    def _keep(self, error: BaseException) -> str:
        """Write a traceback. Returns: where it is, in words."""
        path = write_traceback(self.name, error, self.folder)
        return f"the traceback is in {path}" if path else "its traceback could not be written"


def exit_with(name: str, main: Callable[[], int | None]) -> NoReturn:
    """End this process with the exit code of `main`, which imports what it needs.

    From here on threads and objects that are being deleted print no traceback either.
    """
    command = Command(name)

    def in_thread(arguments: Any) -> None:
        if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
            command.say(f"in a thread: {command.explain(arguments.exc_value)[1]}")

    def unraisable(arguments: Any) -> None:
        if arguments.exc_value is not None and not isinstance(arguments.exc_value, BrokenPipeError):
            command.say(f"while cleaning up: {command.explain(arguments.exc_value)[1]}")

    for stream in ("stdout", "stderr"):  # None where it was closed (`>&-`)
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable
    code = command.run(main, ends_process=True)
    try:
        sys.stdout.flush()
    except OSError:
        leave_output()
    sys.exit(code)


def end_as_asked(number: signal.Signals) -> NoReturn:
    """The exception that a request to end becomes, for one that was only remembered."""
    _asked.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(number.name)


def end_at_once(why: BaseException | signal.Signals) -> NoReturn:
    """End this process from any of its threads, while the main one waits inside a library and
    hears no exception: with the sentence and the exit code that the running command has for it.

    Args:
        why: an error, or a request to end.
    """
    command = _running[-1] if _running else Command(Path(sys.argv[0]).name)
    leave_locks()
    if isinstance(why, signal.Signals):
        _asked.append(why)
        code = command._end_as_asked()
    else:
        code, sentence = command.explain(why, (*command._expected(), type(why)))
        command._end(sentence, code, at_once=True)
    os._exit(code)


def write_traceback(name: str, error: BaseException, folder: Path | None = None) -> Path | None:
    """Keep a traceback in a new file of `folder`, or of the system's folder for temporary files.

    Returns: the file; None where it cannot be written.
    """
    import socket
    import tempfile

    lines = [
        f"{' '.join(sys.argv)}\n",
        f"{time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()} on {socket.gethostname()}, "
        f"{_rank()}Python {sys.version.partition(' ')[0]}\n\n",
        *traceback.format_exception(error),
    ]
    prefix = f"{Path(name).stem}-traceback-"
    for place in (folder, None):
        if place is not None and not place.is_dir():
            continue
        try:
            handle, path = tempfile.mkstemp(".txt", prefix, place)
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(lines)
            return Path(path)
        except OSError:
            continue
    return None


def sentence_of(error: BaseException) -> str:
    """The message of an error on one line."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether host or GPU memory ran out: of the libraries, only some have a type for it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error)
    if type(error).__module__ == "cv2":
        return "Insufficient memory" in text
    signs: tuple[str, ...] = (
        "can't allocate memory",
        "DefaultCPUAllocator",
        "Cannot allocate memory",
    )
    signs += ("std::bad_alloc", "bad allocation", "CUDA out of memory")
    return isinstance(error, (RuntimeError, OSError)) and any(sign in text for sign in signs)


@contextmanager
def _end_by_exception(ends_process: bool) -> Iterator[None]:
    """Inside, the first signal that asks to end becomes an exception, so that everything is tidied
    up; not while a module is imported, which some libraries do not survive, but right after.
    Signals that are ignored (nohup) or handled already, by a command around, stay so. Where the
    process ends after it, a late second request changes no exit code; Ctrl-C is still heard."""
    ignored_until = 0.0

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ignored_until
        if _is_importing(frame):
            _delayed.append(signal.Signals(number))
            again = threading.Timer(_POLL_SECONDS, end_later, [number])
            again.daemon = True
            again.start()
            return
        _delayed.clear()
        if number == signal.SIGINT:
            _asked.append(signal.SIGINT)
            raise KeyboardInterrupt
        if time.monotonic() < ignored_until:  # a scheduler and torchrun may both send one
            return
        ignored_until = time.monotonic() + _TIDYING_SECONDS
        _asked.append(signal.Signals(number))
        raise Terminated(_asked[-1].name)

    def end_later(number: int) -> None:
        if number in _delayed:
            os.kill(os.getpid(), number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        usual = (signal.SIG_DFL, signal.default_int_handler)
        for number in ENDING_SIGNALS:
            if signal.getsignal(number) in usual:
                before[number] = signal.signal(number, end)
    if before:
        _asked.clear()
        _delayed.clear()
    try:
        yield
    finally:
        _delayed.clear()
        is_deaf = ends_process and bool(_asked)
        for changed, handler in before.items():
            signal.signal(
                changed, signal.SIG_IGN if is_deaf and changed != signal.SIGINT else handler
            )


def end_if_asked() -> None:
    """After imports: end now if that was asked for meanwhile, before anything else is begun."""
    if _delayed:
        signal.raise_signal(_delayed[0])


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _is_ours(error: BaseException) -> bool:
    """Whether our code raised it, so that its message was written for the user."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return True  # the system's own, and it names the file
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_code.co_filename.startswith(_OURS)


def _rank() -> str:
    """Among several processes, "rank 3: "; else nothing."""
    several = os.environ.get("WORLD_SIZE", "1") not in ("", "1")
    return f"rank {os.environ.get('RANK', '0')}: " if several else ""


def _is_of_output(error: OSError) -> bool:
    """Whether standard output is full, or a pipe that nobody reads: those errors name no file."""
    if error.errno is None or error.filename is not None or isinstance(error, WriteError):
        return False
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    text = linecache.getline(frame.f_code.co_filename, line)
    if "sys.stdout" in text or "print(" in text:
        return True
    try:
        sys.stdout.flush()
        events = select.poll()
        events.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in events.poll(0))
    except ValueError:  # no file of the system
        return False
    except OSError:
        return True


def leave_output() -> None:
    """Nothing more is written to standard output, nor tried when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, sys.stdout.fileno())
        os.close(handle)
