"""Which frames make a clip, and in which order clips are visited: functions of seed and epoch.

Every draw comes from a generator seeded by (seed, epoch, item), so that order and content of the
batches depend neither on the number of workers nor on what was loaded before.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

_ORDER, _ITEM = 0, 1
"""Keep the random streams of the order and of the items apart."""

ItemKey = tuple[int, int]
"""(epoch, item): all that a dataset needs to make one clip."""


def item_generator(seed: int, epoch: int, item: int) -> np.random.Generator:
    """Where all randomness of one clip comes from."""
    return np.random.default_rng([seed, epoch, _ITEM, item])


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


class ClipBatchSampler(Sampler[list[ItemKey]]):
    """Batches of item keys for one process; every process walks the same global order.

    A global step takes the next batch_size * world_size items, process r the r-th part of them, so
    the items of a step are the same for one process with large batches as for many with small
    ones. Items that do not fill a last step are left out of the epoch.
    """

    def __init__(
        self, num_items: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}")
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.start_batch = 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the order of the next pass and the batch that it starts at."""
        if not 0 <= start_batch <= len(self):
            raise ValueError(f"start_batch must be in 0..{len(self)}, got {start_batch}")
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever the next pass starts."""
        return self.num_items // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[ItemKey]]:
        order = np.random.default_rng([self.seed, self.epoch, _ORDER]).permutation(self.num_items)
        epoch = self.epoch
        for step in range(self.start_batch, len(self)):
            first = (step * self.world_size + self.rank) * self.batch_size
            yield [(epoch, int(item)) for item in order[first : first + self.batch_size]]
