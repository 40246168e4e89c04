"""Batches from decoding processes: broken clips are counted, dead processes noticed and ended."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Lock
from multiprocessing.util import get_temp_dir
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from seqformer.data.clip_dataset import ConcatClipDataset, Sample
from seqformer.data.sampling import ClipBatchSampler
from seqformer.data.transport import PackedBatch
from seqformer.processes import deaf_children, exit_with_parent
from seqformer.structures import ClipBatch

logger = logging.getLogger(__name__)

LEAST_CLIPS_COUNTED = 1000
"""Before so many clips are drawn, a share of broken ones would say little."""
DEATH_SECONDS = 3.0
"""How long a decoding process may take to be gone after it was last heard of."""


class DeadWorkerError(OSError):
    """A decoding process has ended; the message says how, and what may help."""


class ClipLoader(DataLoader[Sample]):
    """Batches of one training process; warns of broken items, and stops when they are too many.

    Attributes:
        num_drawn: clips so far, broken ones included.
        num_broken: broken ones among them.
    """

    batch_sampler: ClipBatchSampler
    dataset: ConcatClipDataset

    def __init__(self, clips: ConcatClipDataset, max_broken_share: float, **options: Any) -> None:
        super().__init__(clips, worker_init_fn=_begin_worker, **options)
        self.max_broken_share = max_broken_share
        self.num_drawn = self.num_broken = 0
        self._workers: list[Any] = []
        self._owner = os.getpid()
        _open_loaders.add(self)

    def __del__(self) -> None:
        self.close()

    def __iter__(self) -> Iterator[ClipBatch]:  # type: ignore[override] # a generator
        """The batches from the sampler's position on.

        Raises: ValueError, when the batch is taken, if too many items are broken or no clip with
            an instance can be found; DeadWorkerError when a decoding process has ended; OSError
            when none can be started.
        """
        try:
            get_temp_dir()  # of this process, which removes it; workers put their sockets there
            if self.num_workers:
                Lock()  # if one cannot be made, torch's iterator is left half made
            with deaf_children(), _no_exceptions_from_signals():
                batches = super().__iter__()  # workers start now, not at the first batch
        except (RuntimeError, OSError, EOFError) as error:
            if self._workers:  # one of them died between two epochs: said when a batch is taken
                return self._checked(_raising(error))
            if not isinstance(error, OSError):
                raise
            raise OSError(
                f"decoding processes cannot be started ({error.strerror or error}); their locks "
                "need a little room in /dev/shm, and they count among the user's processes: see to "
                "that, or give --data.num-workers 0"
            ) from error
        self._workers = list(getattr(batches, "_workers", ()))
        return self._checked(batches)

    def _checked(self, batches: Iterator[ClipBatch | PackedBatch]) -> Iterator[ClipBatch]:
        while True:
            try:
                batch = next(batches, None)
                if isinstance(batch, PackedBatch):
                    batch = batch.unpack()
            except (RuntimeError, OSError, EOFError) as error:
                # Also when a worker dies with a batch that this process has begun to take.
                self._raise_if_dead(error)
                raise
            if batch is None:
                return
            self._count_broken(batch)
            yield batch

    def _count_broken(self, batch: ClipBatch) -> None:
        self.num_drawn += len(batch.ids) + len(batch.broken)
        self.num_broken += len(batch.broken)
        for message in batch.broken:
            logger.warning("skipped: %s", message)
        least = min(LEAST_CLIPS_COUNTED, len(self.dataset))
        if batch.broken and self.num_broken > self.max_broken_share * max(self.num_drawn, least):
            raise ValueError(
                f"{self.num_broken} of {self.num_drawn} clips could not be read, more than "
                f"data.max_broken_share {self.max_broken_share:g} allows; the last one: "
                f"{batch.broken[-1]}"
            )

    def _raise_if_dead(self, error: Exception) -> None:
        """Raise a DeadWorkerError if a worker has ended, or does so in a moment."""
        if str(error).startswith("Caught "):  # a worker sent it, so the worker is well
            return
        until = time.monotonic() + DEATH_SECONDS
        while self._workers:
            codes = [worker.exitcode for worker in self._workers]
            dead = next((code for code in codes if code is not None), None)
            if dead is not None:
                raise DeadWorkerError(_how_it_ended(dead)) from error
            if time.monotonic() > until:
                return
            time.sleep(0.02)

    def close(self) -> None:
        """End the workers. Afterwards the loader can be iterated again."""
        iterator, self._iterator = getattr(self, "_iterator", None), None
        workers, self._workers = getattr(self, "_workers", []), []
        if not workers or iterator is None or self._owner != os.getpid():
            return  # nothing to end, or a copy in a forked process
        # Not torch's way: it waits for workers that hang, and on locks that dead ones held.
        iterator._shutdown = True
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(DEATH_SECONDS)
        signal_handling._remove_worker_pids(id(iterator))
        if hasattr(iterator, "_pin_memory_thread_done_event"):
            iterator._pin_memory_thread_done_event.set()
        for queue in iterator._index_queues:
            queue.cancel_join_thread()
            queue.close()


_open_loaders: weakref.WeakSet[ClipLoader] = weakref.WeakSet()


@atexit.register
def _close_loaders() -> None:
    """Before multiprocessing waits for workers that it cannot end by SIGTERM."""
    for loader in list(_open_loaders):
        loader.close()


def _raising(error: Exception) -> Iterator[ClipBatch]:
    raise error
    yield


def _begin_worker(number: int) -> None:
    exit_with_parent()


def _how_it_ended(code: int) -> str:
    """The sentence for a worker's exit code."""
    if code == -signal.SIGKILL:
        return (
            "a decoding process ended (killed: by somebody, or by the system for lack of memory; "
            "then lower --data.num-workers)"
        )
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return (
        f"a decoding process ended ({how}); --data.num-workers 0 decodes in the training process, "
        "which shows at what"
    )


@contextmanager
def _no_exceptions_from_signals() -> Iterator[None]:
    """Inside, torch installs no handler that raises an error wherever training is just then, in
    the middle of an update for example, when a worker ends. It is noticed at the next batch."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)
