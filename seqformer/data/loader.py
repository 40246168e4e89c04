"""From annotation files to batches: class map, padding, and the training loader."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Lock
from multiprocessing.util import get_temp_dir
from typing import Any, Literal

import cv2
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from seqformer.annotations.coco import load_coco_file
from seqformer.annotations.ytvis import AnnotationSet, load_annotation_file
from seqformer.config import DataConfig
from seqformer.data.clips import ClipSet, JointClips, Sample, StillClips, VideoClips
from seqformer.data.sampling import ClipBatchSampler
from seqformer.data.transport import CAN_PACK, PackedBatch
from seqformer.processes import deaf_children, exit_with_parent
from seqformer.structures import ClassMap, ClipBatch

logger = logging.getLogger(__name__)

PAD_TO = 32
"""Batches are padded to multiples of this many pixels."""
LEAST_CLIPS_COUNTED = 1000
"""Before so many clips are drawn, a share of broken ones would say little."""
DEATH_SECONDS = 3.0
"""How long a decoding process may take to be gone after it was last heard of."""


class DeadWorkerError(OSError):
    """A decoding process has ended; the message says how, and what may help."""


def build_class_map(
    annotations: AnnotationSet | Sequence[AnnotationSet],
    layout: Literal["from_data", "published"],
) -> ClassMap:
    """Outputs of the classifier for the categories of one or more video sets.

    Raises: ValueError when the ids do not fit the published layout, or stand for different things.
    """
    sets = [annotations] if isinstance(annotations, AnnotationSet) else annotations
    categories: dict[int, dict] = {}
    for one in sets:
        for category in one.categories:
            known = categories.setdefault(category["id"], category)
            if _plain(known["name"]) != _plain(category["name"]):
                raise ValueError(
                    f"category {category['id']} is {known['name']!r} in {sets[0].path} but "
                    f"{category['name']!r} in {one.path}; sets trained on jointly must agree"
                )
    if layout == "published":
        return ClassMap.published(list(categories.values()))
    return ClassMap.from_categories(list(categories.values()))


def check_still_categories(still: AnnotationSet, classes: ClassMap) -> None:
    """Find still images that were mapped to the categories of another video set.

    Raises: ValueError when most names differ; a few are only warned of (spellings vary).
    """
    names = dict(zip(classes.ids, classes.names, strict=True))
    shared = [c for c in still.categories if c["id"] in names]
    other = [c for c in shared if _plain(c["name"]) != _plain(names[c["id"]])]
    if not other:
        return
    listed = ", ".join(f"{c['id']} ({c['name']}, not {names[c['id']]})" for c in other[:3])
    message = f"{still.path} has other names for {len(other)} categories of the videos: {listed}"
    if 2 * len(other) > len(shared):
        raise ValueError(
            f"{message}; map COCO to the edition that the videos are of "
            "(`seqformer data coco-to-ytvis --categories`, or --data.coco-categories)"
        )
    logger.warning("%s", message)


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")


def collate(samples: Sequence[Sample]) -> ClipBatch:
    """Pad clips with zeros at the right and bottom to one size, a multiple of `PAD_TO`.

    Targets keep the size of their clip.
    """
    sizes = [sample.images.shape[-2:] for sample in samples]
    height, width = (-(-max(sides) // PAD_TO) * PAD_TO for sides in zip(*sizes, strict=True))
    images = torch.zeros(len(samples), *samples[0].images.shape[:2], height, width)
    padding_mask = torch.ones(len(samples), height, width, dtype=torch.bool)
    for sample, padded, mask, (h, w) in zip(samples, images, padding_mask, sizes, strict=True):
        padded[..., :h, :w] = sample.images
        mask[:h, :w] = False
    return ClipBatch(
        images=images,
        padding_mask=padding_mask,
        targets=[sample.targets for sample in samples],
        ids=[sample.id for sample in samples],
        broken=[message for sample in samples for message in sample.broken],
    )


def collate_packed(samples: Sequence[Sample]) -> PackedBatch:
    """`collate` in a decoding process: the batch is ready to be sent."""
    return PackedBatch(collate(samples))


class ClipLoader(DataLoader[ClipBatch]):
    """Batches of one training process; warns of broken items, and stops when they are too many.

    Attributes:
        num_drawn: clips so far, broken ones included.
        num_broken: broken ones among them.
    """

    batch_sampler: ClipBatchSampler

    def __init__(self, clips: JointClips, max_broken_share: float, **options: Any) -> None:
        super().__init__(clips, worker_init_fn=_begin_worker, **options)
        self.max_broken_share = max_broken_share
        self.num_drawn = self.num_broken = 0
        self._workers: list[Any] = []
        self._owner = os.getpid()
        _open_loaders.add(self)

    def __del__(self) -> None:
        self.close()

    def __iter__(self) -> Iterator[ClipBatch]:
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


def build_train_loader(
    config: DataConfig, seed: int, rank: int = 0, world_size: int = 1
) -> tuple[ClipLoader, ClassMap]:
    """Loader of one training process, and what the outputs of the classifier stand for.

    Call `loader.batch_sampler.set_epoch(epoch, start_step)` before each pass. A step takes
    `loader.batch_sampler.micro_batches` batches of this loader, an epoch `steps_per_epoch` steps.
    Every process must give the same seed. One that computes on a GPU sets `loader.pin_memory`.

    Raises: FileNotFoundError or ValueError saying which file or setting to change.
    """
    # OpenCV's threads would not survive the fork of the workers, and one core per worker is enough.
    cv2.setNumThreads(0)
    sets, classes = load_sets(config)
    clips = JointClips(sets, seed)
    global_batch_size = config.global_batch_size or config.batch_size * world_size
    sampler = ClipBatchSampler(
        [len(one) for one in sets],
        global_batch_size,
        seed,
        rank,
        world_size,
        micro_batch_size=config.batch_size,
        weights=config.sampling_weights,
    )
    if sampler.steps_per_epoch == 0:
        setting = "global-batch-size" if config.global_batch_size else "batch-size"
        raise ValueError(
            f"{config.train_annotations} has {len(clips)} frames, fewer than the "
            f"{global_batch_size} clips of one step over {world_size} process(es); lower "
            f"--data.{setting} or add videos"
        )
    if rank == 0:
        for one in sets:
            kind = "frames" if isinstance(one, VideoClips) else "still images"
            logger.info(
                "%d %s, %d instances from %s",
                len(one),
                kind,
                one.annotations.num_instances,
                one.source,
            )
        logger.info("%d classes", classes.num_classes)
    loader = ClipLoader(
        clips,
        config.max_broken_share,
        batch_sampler=sampler,
        num_workers=config.num_workers,
        collate_fn=collate_packed if config.num_workers and CAN_PACK else collate,
        # Workers keep their cache of frames, and the start of an epoch costs nothing.
        persistent_workers=config.num_workers > 0,
        # Without one of its own the loader would draw from the generator of dropout.
        generator=torch.Generator().manual_seed(seed),
    )
    return loader, classes


def load_sets(config: DataConfig) -> tuple[list[ClipSet], ClassMap]:
    """The video sets, then the still images, and the classes of the videos.

    Raises: FileNotFoundError or ValueError saying which file or setting to change.
    """
    files = [config.train_annotations, *config.more_annotations]
    videos = [
        load_annotation_file(f, True, config.annotation_cache, config.presence) for f in files
    ]
    classes = build_class_map(videos, config.class_layout)
    folders = [config.train_images, *config.more_images]
    sets: list[ClipSet] = [
        VideoClips(one, folder, classes, config)
        for one, folder in zip(videos, folders, strict=True)
    ]
    if config.coco_annotations is not None and config.coco_images is not None:
        still = load_coco_file(
            config.coco_annotations,
            config.coco_categories,
            config.annotation_cache,
            config.presence,
        )
        check_still_categories(still, classes)
        sets.append(StillClips(still, config.coco_images, classes, config))
    return sets, classes
