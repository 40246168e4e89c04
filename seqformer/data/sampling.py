"""Which frames make a clip, and in which order clips are visited: functions of seed and epoch.

Every draw comes from a generator seeded by (seed, epoch, item), so that order and content of the
batches depend neither on the number of workers nor on what was loaded before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

_ORDER, _ITEM = 0, 1
"""Keep the random streams of the order and of the items apart."""


class SampleKey(NamedTuple):
    """All that a dataset needs to make one clip.

    `repeat` counts earlier visits to the item in the same epoch, which weights can lead to.
    `is_single` asks for the item's own frame alone, however many a clip has otherwise.
    """

    epoch: int
    item: int
    repeat: int = 0
    is_single: bool = False


def item_generator(seed: int, epoch: int, item: int, repeat: int = 0) -> np.random.Generator:
    """Where all randomness of one clip comes from."""
    return np.random.default_rng([seed, epoch, _ITEM, item, *([repeat] if repeat else [])])


def epoch_order(
    sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int
) -> np.ndarray:
    """Which items an epoch visits, in order: [sum of sizes, 2], (item, repeat).

    Args:
        sizes: items of each set; they are counted through.
        weights: share of each set in the epoch, up to a common factor. A set that is due more
            often than it has items is gone through again and again, one that is due less often is
            visited in part. Empty: every item once, as in the published concatenation.
    """
    rng = np.random.default_rng([seed, epoch, _ORDER])
    total = sum(sizes)
    if not weights:
        return np.stack([rng.permutation(total), np.zeros(total, np.int64)], axis=1)
    exact = np.array(weights, float) / sum(weights) * total
    counts = exact.astype(int)
    largest_rest = np.argsort(counts - exact, kind="stable")[: total - counts.sum()]
    counts[largest_rest] += 1
    visits = []
    for first, size, count in zip(np.cumsum([0, *sizes]), sizes, counts, strict=False):
        for repeat in range(-(-count // size)):
            items = rng.permutation(size)[: count - repeat * size]
            visits.append(np.stack([first + items, np.full(len(items), repeat)], axis=1))
    return rng.permutation(np.concatenate(visits))


def sample_frames(
    frame: int, length: int, num_frames: int, frame_range: int, rng: np.random.Generator
) -> list[int]:
    """The T frames of the clip around `frame`, ascending.

    The frame and one neighbour on either side, each up to `frame_range` away, and T - 3 frames of
    the whole video. parity: a neighbour beyond the first or last frame becomes that frame, the
    largest of the three can be drawn again, and T < 3 takes the first T of the three; so a frame
    can appear twice, and `frame` itself can be missing.
    """
    before, after = rng.integers(1, frame_range + 1, size=2).tolist()
    low, high = max(0, frame - before), min(length - 1, frame + after)
    chosen = [low, frame, high][:num_frames]
    num_more = num_frames - len(chosen)
    pool = [*range(low), *range(high, length)]
    if len(pool) > num_more:
        chosen += rng.choice(pool, num_more, replace=False).tolist()
    elif length >= num_more:
        chosen += rng.choice(length, num_more, replace=False).tolist()
    else:
        # The published code stops here where num_more > 2 * length; frames then repeat further.
        repeats, rest = divmod(num_more, length)
        chosen += [*range(length)] * repeats + rng.choice(length, rest, replace=False).tolist()
    return sorted(chosen)


def sample_window(
    frame: int, length: int, num_frames: int, frame_range: int, rng: np.random.Generator
) -> list[int]:
    """The frame and T - 1 others, ascending: each drawn by itself from the frames up to
    `frame_range` before and after it, so that one can appear twice. A video of one frame repeats
    it."""
    window = range(max(0, frame - frame_range), min(length, frame + frame_range + 1))
    pool = [other for other in window if other != frame] or [frame]
    return sorted([frame, *rng.choice(pool, num_frames - 1).tolist()])


class ClipBatchSampler(Sampler[list[SampleKey]]):
    """Micro-batches of item keys for one process; every process walks the same global order.

    A step takes the next `global_batch_size` items of the epoch's order, which depends on nothing
    but seed and epoch. Process r takes the r-th part of them and splits it into `micro_batches`
    parts of at most `micro_batch_size` clips, equal but for one clip. So step k holds the same
    items on any number of processes, and (epoch, step) is all that a checkpoint has to keep. Items
    that do not fill a last step are left out of the epoch. In the first `single_frame_steps` steps,
    counted from the first epoch on, clips are single frames.

    Attributes:
        steps_per_epoch: global batches of an epoch.
        micro_batches: batches that this sampler yields for each step, the same on every process.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        global_batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        micro_batch_size: int | None = None,
        weights: Sequence[float] = (),
        single_frame_steps: int = 0,
    ) -> None:
        """
        Args:
            sizes: items of each set, see `epoch_order`, which also explains `weights`.
            global_batch_size: clips of one step over all processes, a multiple of `world_size`.
            micro_batch_size: largest number of clips that are loaded (and trained on) at once;
                default the whole part of the process.

        Raises: ValueError when the clips of a step cannot be shared evenly.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}")
        share, rest = divmod(global_batch_size, world_size)
        if rest or share == 0:
            raise ValueError(
                f"a global batch of {global_batch_size} clips cannot be shared evenly by "
                f"{world_size} processes; make --data.global-batch-size a multiple of the "
                "processes, or start another number of them"
            )
        self.sizes, self.weights = tuple(sizes), tuple(weights)
        self.single_frame_steps = single_frame_steps
        self.global_batch_size, self.seed = global_batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.share = share
        self.micro_batches = -(-share // (micro_batch_size or share))
        self.steps_per_epoch = sum(sizes) // global_batch_size
        self.epoch = self.start_step = 0

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the order of the next pass and the step (global batch) that it starts at."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"start_step must be in 0..{self.steps_per_epoch}, got {start_step}")
        self.epoch, self.start_step = epoch, start_step

    def __len__(self) -> int:
        """Micro-batches of a whole epoch, wherever the next pass starts."""
        return self.steps_per_epoch * self.micro_batches

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = epoch_order(self.sizes, self.weights, self.seed, self.epoch)
        epoch = self.epoch
        for step in range(self.start_step, self.steps_per_epoch):
            first = step * self.global_batch_size + self.rank * self.share
            is_single = epoch * self.steps_per_epoch + step < self.single_frame_steps
            for part in np.array_split(order[first : first + self.share], self.micro_batches):
                yield [SampleKey(epoch, item, repeat, is_single) for item, repeat in part.tolist()]
