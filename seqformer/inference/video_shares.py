"""Which process takes which videos, in an evaluation and in the validation of a run."""

from __future__ import annotations

import heapq
from collections.abc import Container, Sequence

from seqformer.data.video_sources import VideoSource
from seqformer.distributed.context import DistributedContext


def own_share(
    sources: Sequence[VideoSource], ranks: DistributedContext, finished: Container[int] = ()
) -> list[VideoSource]:
    """The videos of this process; those that are `finished` count as without frames."""
    lengths = [0 if s.video_id in finished else s.num_frames() for s in sources]
    return [sources[i] for i in balanced_shares(lengths, ranks.world_size)[ranks.rank]]


def balanced_shares(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Distribute videos so that all ranks get about as many frames.

    The longest first, each to the rank with the least so far: at most a third above the best
    distribution (Graham 1969).

    Returns: for every rank the positions of its videos, ascending.
    """
    shares: list[list[int]] = [[] for _ in range(world_size)]
    loads = [(0, rank) for rank in range(world_size)]
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        load, rank = heapq.heappop(loads)
        shares[rank].append(index)
        heapq.heappush(loads, (load + lengths[index], rank))
    return [sorted(share) for share in shares]
