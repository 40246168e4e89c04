"""Several sets of clips as one data set: an item that cannot be trained on gives way to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from seqformer.data.clips import ClipSet
from seqformer.data.sampling import SampleKey, item_generator
from seqformer.data.transforms import to_tensors
from seqformer.structures import ClipTargets

MAX_TRIES = 100
"""Items drawn in the place of one that shows no instance or is broken, before giving up."""


class Sample(NamedTuple):
    """One clip, ready to be collated."""

    images: Tensor
    """[T, 3, H, W] float32, normalised."""
    targets: ClipTargets
    id: str
    """Readable origin: "video 12, frames 3 5 9"."""
    broken: tuple[str, ...] = ()
    """What was wrong with the items drawn before this one."""


class ConcatClipDataset(Dataset[Sample]):
    """Items of one or more sets, counted through in the order of the sets.

    An item that shows no instance, or whose file is broken, gives way to another one of its set.
    """

    def __init__(self, sets: Sequence[ClipSet], seed: int) -> None:
        self.sets, self.seed = sets, seed
        self.starts = np.cumsum([0, *map(len, sets)])

    def __len__(self) -> int:
        """Number of items of all sets."""
        return int(self.starts[-1])

    def __getitem__(self, key: SampleKey) -> Sample:
        """One clip with at least one instance.

        Raises: ValueError when there is none to be found.
        """
        rng = item_generator(self.seed, key.epoch, key.item, key.repeat)
        number = int(np.searchsorted(self.starts, key.item, "right")) - 1
        clips, item = self.sets[number], key.item - int(self.starts[number])
        broken: list[str] = []
        for _ in range(MAX_TRIES):
            try:
                made = clips.load_clip(item, rng, key.is_single)
                if made is not None:
                    clip, name = made
                    return Sample(*to_tensors(clip), name, tuple(broken))
            except (ValueError, OSError) as error:
                broken.append(str(error))
            item = int(rng.integers(len(clips)))
        if broken:
            raise ValueError(
                f"{clips.source}: {len(broken)} of {MAX_TRIES} items in a row are broken; "
                f"the last one: {broken[-1]}"
            )
        raise ValueError(
            f"{clips.source}: {MAX_TRIES} clips in a row showed no instance; annotate more frames "
            "or make the crops of data.augment larger"
        )
