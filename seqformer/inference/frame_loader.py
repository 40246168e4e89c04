"""Decoding frames ahead of the network, in worker processes, in the order the network wants them.

The work is cut into units: some frames of a folder, or a whole video file, which can only be read
from its start. Unit i belongs to worker i mod W; each worker keeps a few messages ready, so workers
run ahead by a bounded amount of memory, into the next videos too. Each has a pipe that it alone
writes, so its end is seen at once, in the middle of a message too. Needs no torch: the workers
start fast.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from seqformer.data.video_sources import VideoSource
from seqformer.inference.resize import check_frame, resize_frame
from seqformer.processes import deaf_children, serve

Resized = tuple[np.ndarray, tuple[int, int]]
"""A frame of network size, and the (height, width) it had."""
UNIT_FRAMES = 16
"""Frames of a unit; a 360p one is 11 MB."""
MESSAGE_FRAMES = 4
QUEUED_MESSAGES = 4
DEATH_SECONDS = 5.0
_ERRORS = {kind.__name__: kind for kind in (FileNotFoundError, OSError, ValueError, MemoryError)}


@dataclass(frozen=True)
class _Unit:
    """Consecutive frames of the video at position `video`, or all of a video file."""

    video: int
    first: int
    source: VideoSource


class FrameLoader:
    """Resized frames of several videos, decoded ahead.

    Attributes:
        waited: seconds that the consumer has waited for frames so far.
    """

    def __init__(
        self, sources: Sequence[VideoSource], sides: tuple[int, int], workers: int = 0
    ) -> None:
        """Start decoding.

        Args:
            sources: the videos, in the order in which `frames` will be called.
            sides: short side and largest long side, as in `resize_frame`.
            workers: processes; 0 decodes when asked, in this one.
        """
        self.waited = 0.0
        self._sources, self._sides = sources, sides
        self._units = _units(sources)
        self._next = 0  # unit whose messages come next
        self._workers: list[tuple[Any, Any]] = []
        context = get_context("spawn")
        for index in range(min(workers, len(self._units))):
            messages, sender = context.Pipe(duplex=False)
            share = self._units[index :: min(workers, len(self._units))]
            arguments = ("a process that decodes frames", _work, share, sides, sender)
            process = context.Process(target=serve, args=arguments, daemon=True)
            with deaf_children():
                process.start()
            sender.close()  # now the worker has the only one
            self._workers.append((process, messages))

    def frames(self, video: int) -> Iterator[Resized]:
        """The frames of one video; videos are asked for in order, each once.

        Raises: as `VideoSource.frames`; OSError when a worker has died.
        """
        iterator = self._received(video) if self._workers else self._decoded_here(video)
        while True:
            start = time.perf_counter()
            frame = next(iterator, None)
            self.waited += time.perf_counter() - start
            if frame is None:
                return
            yield frame

    def _decoded_here(self, video: int) -> Iterator[Resized]:
        for index, frame in enumerate(self._sources[video].frames()):
            frame = check_frame(frame, index)
            yield resize_frame(frame, *self._sides), frame.shape[:2]

    def _received(self, video: int) -> Iterator[Resized]:
        while self._next < len(self._units) and self._units[self._next].video <= video:
            is_wanted = self._units[self._next].video == video
            for message in self._messages_of_next():
                if isinstance(message, tuple) and is_wanted:
                    raise _ERRORS[message[0]](message[1])
                if isinstance(message, list) and is_wanted:
                    yield from message

    def _messages_of_next(self) -> Iterator[list[Resized] | tuple[str, str]]:
        """Messages of the next unit up to its end; an abandoned rest is skipped later."""
        process, messages = self._workers[self._next % len(self._workers)]
        while True:
            try:
                message = messages.recv()
            except (EOFError, OSError):
                self._next += 1
                process.join(DEATH_SECONDS)
                raise OSError(
                    f"a process that decodes frames has died (exit code {process.exitcode}); -9 is "
                    "a kill, by somebody or by the system for lack of memory: then give fewer "
                    "--decode-workers"
                ) from None
            if message is None or isinstance(message, tuple):
                self._next += 1
            if message is None:
                return
            yield message
            if isinstance(message, tuple):
                return

    def close(self) -> None:
        """End the workers."""
        for process, _ in self._workers:
            process.kill()  # they answer nothing else
        for process, messages in self._workers:
            process.join()
            messages.close()
        self._workers = []


def _units(sources: Sequence[VideoSource]) -> list[_Unit]:
    units = []
    for video, source in enumerate(sources):
        step = max(1, len(source.paths)) if source.is_video_file else UNIT_FRAMES
        for first in range(0, max(1, len(source.paths)), step):
            paths = source.paths[first : first + step]
            own = replace(source, paths=paths, scaled_with=source.paths)
            units.append(_Unit(video, first, own))
    return units


def _work(units: list[_Unit], sides: tuple[int, int], pipe: Connection) -> None:
    """A worker: decodes, while a thread sends what is ready."""
    ready: queue.Queue[Any] = queue.Queue(QUEUED_MESSAGES)
    decoder = threading.Thread(target=_decode, args=(units, sides, ready), daemon=True)
    decoder.start()
    while (message := ready.get()) is not _END:
        if isinstance(message, BaseException):
            raise message  # a fault of the program
        pipe.send(message)


_END = object()


def _decode(units: list[_Unit], sides: tuple[int, int], ready: queue.Queue[Any]) -> None:
    """Lists of frames, then None or an error as (name, text), for every unit; then the end."""
    try:
        _decode_units(units, sides, ready)
    except Exception as error:  # told by the thread that serves the parent
        ready.put(error)
    else:
        ready.put(_END)


def _decode_units(units: list[_Unit], sides: tuple[int, int], messages: queue.Queue[Any]) -> None:
    for unit in units:
        frames = unit.source.frames()
        batch: list[Resized] = []
        try:
            for index, frame in enumerate(frames, start=unit.first):
                frame = check_frame(frame, index)
                batch.append((resize_frame(frame, *sides), frame.shape[:2]))
                if len(batch) == MESSAGE_FRAMES:
                    messages.put(batch)
                    batch = []
        except (ValueError, OSError, MemoryError) as error:
            kind = next(n for n, kind in _ERRORS.items() if isinstance(error, kind))
            messages.put((kind, str(error)))
        else:
            if batch:
                messages.put(batch)
            messages.put(None)
