"""Processes that meet at a store where others have met before."""

import threading
from datetime import timedelta

import pytest
import torch.distributed as dist

from seqformer.trainer.parallel.meeting import agree_on_name


def agree(store: dist.Store, world_size: int) -> list[str]:
    """What `world_size` processes agree on, the last first."""
    names = [""] * world_size
    seconds = timedelta(seconds=20)

    def take_part(rank: int) -> None:
        names[rank] = agree_on_name(store.clone(), rank, world_size, seconds)

    threads = [threading.Thread(target=take_part, args=(r,)) for r in reversed(range(world_size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return names


def test_every_session_at_one_store_has_a_name_of_its_own():
    """torchrun keeps its store when it starts lost processes again."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    seen = set()
    for world_size in (3, 3, 2, 3, 1, 3):
        names = agree(store, world_size)
        assert len(set(names)) == 1 and names[0] and not seen & set(names)
        seen |= set(names)


def test_process_that_never_comes_is_said():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for rank in (0, 1):
        with pytest.raises(dist.DistStoreError, match="Timed out waiting"):
            agree_on_name(store, rank, 3, timedelta(seconds=0.1))
