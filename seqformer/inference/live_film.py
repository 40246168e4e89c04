"""The film of a live run, drawn and written by a process of its own.

Drawing and encoding a frame take a third of the time of a small model. In this process they would
make frames wait; in a thread they would fight with the model for the interpreter. Needs no torch,
so the process starts fast.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from itertools import chain
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from seqformer.command import sentence_of
from seqformer.inference.prediction import VideoPrediction
from seqformer.processes import deaf_children, exit_with_parent
from seqformer.visualization.drawing import Colours, iterate_drawn
from seqformer.visualization.video_writer import write_video

logger = logging.getLogger(__name__)

MOST_WAITING = 16
"""Frames that wait to be drawn; where more would, the model waits."""
_DIED = "the process that writes it has died (killed by somebody, or for lack of memory)"

_Item = tuple[np.ndarray, int, VideoPrediction]
"""A frame, how many were dropped before it, and its tracks."""


class FilmProcess:
    """Takes frames with their tracks; the film is there after `close`.

    Attributes:
        path: of the film.
        problem: why it could not be written; "" if it could.
    """

    def __init__(self, path: Path, fps: float, min_score: float) -> None:
        """Start the process.

        Args:
            path: what `write_video` takes.
            fps: frames per second.
            min_score: results below it are not drawn.

        Raises: OSError when no process can be started.
        """
        self.path, self.problem = path, ""
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_write, args=(theirs, path, fps, min_score), daemon=True, name="seqformer-film"
        )
        with deaf_children():
            self._process.start()
        theirs.close()
        self._waiting: queue.Queue[_Item | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._send, daemon=True, name="seqformer-film")
        self._thread.start()

    def add(self, picture: np.ndarray, dropped: int, tracks: VideoPrediction) -> None:
        """The next frame, uint8 RGB [h0, w0, 3]; those dropped before it show the one before."""
        self._waiting.put((picture, dropped, tracks))

    def close(self) -> None:
        """Wait until the film is written, or `problem` says why it is not."""
        try:
            self._waiting.put(None)
            self._thread.join()
            self._process.join()
        except BaseException:  # somebody does not want to wait
            self._process.kill()
            raise

    def _send(self) -> None:
        is_ended = False
        try:
            while not is_ended:
                item = self._waiting.get()
                is_ended = item is None
                self._connection.send(item)
        except OSError:
            pass  # it has ended, and may have said why
        try:
            self.problem = self._connection.recv()
        except (EOFError, OSError):
            self.problem = f"{self.path} cannot be written: {_DIED}"
        self._connection.close()
        if self.problem:
            logger.warning("%s; everything else goes on", self.problem)
        while not is_ended:  # nobody must wait for a film that is no more
            is_ended = self._waiting.get() is None


def _write(connection: Connection, path: Path, fps: float, min_score: float) -> None:
    """The life of the process. Answers with the problem, or ""."""
    exit_with_parent()
    problem = ""
    try:
        pictures = _drawn(iter(connection.recv, None), min_score)
        first = next(pictures, None)
        if first is not None:
            write_video(path, chain([first], pictures), fps, is_fast=True)
    except (ValueError, OSError, MemoryError) as error:
        problem = sentence_of(error)
    connection.send(problem)


def _drawn(items: Iterator[_Item], min_score: float) -> Iterator[np.ndarray]:
    colours: Colours = {}
    before: np.ndarray | None = None
    for picture, dropped, tracks in items:
        if before is not None:
            for _ in range(dropped):
                yield before
        (before,) = iterate_drawn([picture], tracks.detections, tracks.names, min_score, colours)
        yield before
