"""Compressing masks, here or in background processes. Needs no torch, so those start fast."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from seqformer.annotations.run_lengths import RLE, encode_masks
from seqformer.processes import deaf_children, exit_with_parent, hear_sigterm

_DEAD = (
    "a process that compresses masks has died (killed by somebody, or by the system for lack of "
    "memory); the same command continues after the last finished video, --encode-workers 0 needs "
    "less memory"
)


@dataclass
class EncodingJob:
    """Masks that are being compressed.

    Attributes:
        has_pixels: whether any of them is not empty.
        result: waits for and returns the compressed masks, in order.
    """

    has_pixels: bool
    result: Callable[[], list[RLE]]


class MaskEncoder:
    """Compresses in `workers` processes; 0 compresses at once, in this one.

    Attributes:
        waited: seconds that callers of `result` have waited so far.
    """

    def __init__(self, workers: int = 0) -> None:
        self.waited = 0.0
        self._pool: ProcessPoolExecutor | None = None
        self._running: deque[Future[list[RLE]]] = deque()
        self._most_running = 4 * workers  # masks in flight take memory
        if workers:
            try:
                self._pool = ProcessPoolExecutor(
                    workers, mp_context=get_context("spawn"), initializer=_begin
                )
            except OSError as error:
                raise OSError(
                    f"processes that compress masks cannot be started ({error.strerror}); their "
                    "locks need a little room in /dev/shm: see to that, or give --encode-workers 0"
                ) from error

    def submit(self, masks: np.ndarray) -> EncodingJob:
        """Start on masks [n, w0, h0] bool, columns first as run lengths go."""
        has_pixels = bool(masks.any())
        if self._pool is None:
            encoded = encode_masks(masks.T)
            return EncodingJob(has_pixels, lambda: encoded)
        if len(self._running) >= self._most_running:
            self._wait(self._running.popleft())
        try:
            with deaf_children():  # the first calls start the processes
                future = self._pool.submit(_encode_packed, np.packbits(masks), masks.shape)
        except BrokenProcessPool:
            raise OSError(_DEAD) from None
        self._running.append(future)
        return EncodingJob(has_pixels, lambda: self._wait(future))

    def _wait(self, future: Future[list[RLE]]) -> list[RLE]:
        start = time.perf_counter()
        try:
            return future.result()
        except BrokenProcessPool:
            raise OSError(_DEAD) from None
        finally:
            self.waited += time.perf_counter() - start

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _begin() -> None:
    exit_with_parent()
    hear_sigterm()  # with which the pool ends the others when one has died


def _encode_packed(bits: np.ndarray, shape: tuple[int, ...]) -> list[RLE]:
    masks = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape)
    return encode_masks(masks.T)
