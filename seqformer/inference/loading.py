"""Decoding frames ahead of the network, in worker processes, in the order the network wants them.

The work is cut into units: some frames of a folder, or a whole video file, which can only be read
from its start. Unit i belongs to worker i mod W; each worker has a queue that holds a few messages,
so workers run ahead by a bounded amount of memory, into the next videos too. Needs no torch: the
workers start fast.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import numpy as np

from seqformer.inference.frames import check_frame, resize_frame
from seqformer.inference.processes import serve_parent
from seqformer.inference.sources import VideoSource

Resized = tuple[np.ndarray, tuple[int, int]]
"""A frame of network size, and the (height, width) it had."""
UNIT_FRAMES = 16
"""Frames of a unit; a 360p one is 11 MB."""
MESSAGE_FRAMES = 4
QUEUED_MESSAGES = 4
_ERRORS = {"FileNotFoundError": FileNotFoundError, "OSError": OSError, "ValueError": ValueError}


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

    def __init__(self, sources: Sequence[VideoSource], short_side: int, workers: int = 0) -> None:
        """Start decoding.

        Args:
            sources: the videos, in the order in which `frames` will be called.
            short_side: as in `resize_frame`.
            workers: processes; 0 decodes when asked, in this one.
        """
        self.waited = 0.0
        self._sources, self._short_side = sources, short_side
        self._units = _units(sources)
        self._next = 0  # unit whose messages come next
        self._workers: list[tuple[Any, Any]] = []
        context = get_context("spawn")
        for index in range(min(workers, len(self._units))):
            messages = context.Queue(QUEUED_MESSAGES)
            share = self._units[index :: min(workers, len(self._units))]
            process = context.Process(
                target=_decode, args=(share, short_side, messages), daemon=True
            )
            process.start()
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
            yield resize_frame(frame, self._short_side), frame.shape[:2]

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
                message = messages.get(timeout=0.5)
            except queue.Empty:
                if process.is_alive():
                    continue
                self._next += 1
                raise OSError(
                    f"a process that decodes frames has died (exit code {process.exitcode}), most "
                    "likely for lack of memory; give fewer --decode-workers"
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
            process.terminate()
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
            own = replace(source, paths=paths)
            units.append(_Unit(video, first, own))
    return units


def _decode(units: list[_Unit], short_side: int, messages) -> None:
    """A worker: lists of frames, then None or an error as (name, text), for every unit."""
    serve_parent()
    for unit in units:
        frames = unit.source.frames()
        batch: list[Resized] = []
        try:
            for index, frame in enumerate(frames, start=unit.first):
                frame = check_frame(frame, index)
                batch.append((resize_frame(frame, short_side), frame.shape[:2]))
                if len(batch) == MESSAGE_FRAMES:
                    messages.put(batch)
                    batch = []
        except (ValueError, OSError) as error:
            kind = next(n for n, kind in _ERRORS.items() if isinstance(error, kind))
            messages.put((kind, str(error)))
        else:
            if batch:
                messages.put(batch)
            messages.put(None)
