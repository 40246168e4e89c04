"""Frames of a clip, and the order of clips over epochs, processes and restarts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqformer.data.sampling import ClipBatchSampler, item_generator, sample_frames, sample_window


class Scripted:
    """Stands in for the generator: fixed neighbours, and the first frames of the pool."""

    def __init__(self, before: int, after: int) -> None:
        self.neighbours = np.array([before, after])
        self.pool: list[int] = []

    def integers(self, low: int, high: int, size: int) -> np.ndarray:
        assert (low, size) == (1, 2) and self.neighbours.max() < high
        return self.neighbours

    def choice(self, pool: int | list[int], size: int, replace: bool) -> np.ndarray:
        assert not replace
        self.pool = list(range(pool)) if isinstance(pool, int) else pool
        return np.array(self.pool[:size], int)


@pytest.mark.parametrize(
    ("frame", "length", "num_frames", "neighbours", "pool", "expected"),
    [
        # Frames before the smallest, and from the largest (8) onward.
        (5, 10, 5, (2, 3), [0, 1, 2, 8, 9], [0, 1, 3, 5, 8]),
        (5, 10, 3, (2, 3), [0, 1, 2, 8, 9], [3, 5, 8]),
        # parity: the largest is drawn a second time.
        (0, 10, 5, (1, 3), [3, 4, 5, 6, 7, 8, 9], [0, 0, 3, 3, 4]),
        # parity: the neighbour of the first frame is the frame itself.
        (0, 4, 3, (3, 1), [1, 2, 3], [0, 0, 1]),
        (9, 10, 3, (1, 1), [0, 1, 2, 3, 4, 5, 6, 7, 9], [8, 9, 9]),
        # Exactly as many left as needed is not enough: all frames are drawn from.
        (1, 4, 5, (1, 1), [0, 1, 2, 3], [0, 0, 1, 1, 2]),
        (1, 3, 5, (1, 1), [0, 1, 2], [0, 0, 1, 1, 2]),
        # Fewer frames than needed: all of them, and the rest of them once more.
        (1, 2, 6, (3, 3), [0, 1], [0, 0, 0, 1, 1, 1]),
        (0, 1, 5, (1, 3), [0], [0, 0, 0, 0, 0]),
        # parity: below three frames the first of the sorted three remain, not the middle one.
        (5, 10, 2, (2, 3), [0, 1, 2, 8, 9], [3, 5]),
        (5, 10, 1, (2, 3), [0, 1, 2, 8, 9], [3]),
    ],
)
def test_frame_choice_by_hand(frame, length, num_frames, neighbours, pool, expected):
    rng = Scripted(*neighbours)
    assert sample_frames(frame, length, num_frames, 3, rng) == expected
    assert rng.pool == pool


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_length_gives_num_frames_ascending_frames(data):
    length = data.draw(st.integers(1, 40))
    frame = data.draw(st.integers(0, length - 1))
    num_frames = data.draw(st.integers(1, 12))
    frame_range = data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    frames = sample_frames(frame, length, num_frames, frame_range, rng)
    assert len(frames) == num_frames and frames == sorted(frames)
    assert frames[0] >= 0 and frames[-1] < length
    assert all(type(f) is int for f in frames)
    if num_frames >= 3:
        assert frame in frames
        assert any(frame - frame_range <= f <= frame for f in frames)
    elif num_frames == 1:
        assert frame - frame_range <= frames[0] <= frame


def test_all_neighbours_are_drawn_equally():
    counts = np.zeros((4, 4), int)
    for seed in range(2000):
        low, _, high = sample_frames(10, 30, 3, 3, np.random.default_rng(seed))
        counts[10 - low, high - 10] += 1
    assert counts[0].sum() == counts[:, 0].sum() == 0
    assert counts[1:, 1:].min() > 150  # 222 expected


def test_generators_differ_by_each_of_seed_epoch_and_item():
    draws = {k: item_generator(*k).random() for k in itertools.product(range(3), repeat=3)}
    assert len(set(draws.values())) == 27
    assert item_generator(1, 2, 0).random() == draws[1, 2, 0]


def test_epoch_visits_every_item_once_and_drops_the_rest():
    sampler = ClipBatchSampler(sizes=[11], global_batch_size=3, seed=0)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 3
    assert all(key.epoch == 0 and key.repeat == 0 for batch in batches for key in batch)
    items = [key.item for batch in batches for key in batch]
    assert len(set(items)) == 9 and set(items) <= set(range(11))
    sampler.set_epoch(1)
    assert [[key.item for key in b] for b in sampler] != [[key.item for key in b] for b in batches]
    sampler.set_epoch(0)
    assert list(sampler) == batches
    assert list(ClipBatchSampler(sizes=[11], global_batch_size=3, seed=1)) != batches


def test_restart_inside_an_epoch_gives_the_remaining_batches():
    sampler = ClipBatchSampler(sizes=[20], global_batch_size=2, seed=5)
    sampler.set_epoch(3)
    whole = list(sampler)
    for start in (0, 4, 10):
        sampler.set_epoch(3, start)
        assert list(sampler) == whole[start:]
        assert len(sampler) == 10
    with pytest.raises(ValueError, match=r"0\.\.10"):
        sampler.set_epoch(3, 11)


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 5, 12, None])
def test_a_step_holds_the_same_items_for_any_number_of_processes(world_size, micro_batch_size):
    alone = list(ClipBatchSampler(sizes=[50], global_batch_size=12, seed=1))
    samplers = [
        ClipBatchSampler([50], 12, 1, rank, world_size, micro_batch_size)
        for rank in range(world_size)
    ]
    (micro_batches,) = {sampler.micro_batches for sampler in samplers}
    parts = [list(sampler) for sampler in samplers]
    for step, expected in enumerate(alone):
        taken = [p[step * micro_batches : (step + 1) * micro_batches] for p in parts]
        assert [key for rank in taken for batch in rank for key in batch] == expected
        sizes = [len(batch) for rank in taken for batch in rank]
        assert max(sizes) - min(sizes) <= 1 and max(sizes) <= (micro_batch_size or 12)
    assert all(len(p) == len(s) == 4 * micro_batches for p, s in zip(parts, samplers, strict=True))


def test_written_by_two_processes_read_by_three_and_one():
    """(epoch, step) is the whole position: the rest of the epoch is the same items."""
    whole = list(ClipBatchSampler(sizes=[40], global_batch_size=6, seed=7))
    for world_size in (1, 2, 3):
        rest = []
        for rank in range(world_size):
            sampler = ClipBatchSampler([40], 6, 7, rank, world_size, micro_batch_size=2)
            sampler.set_epoch(0, start_step=4)
            batches = list(sampler)
            count = sampler.micro_batches
            rest.append([batches[i : i + count] for i in range(0, len(batches), count)])
        steps = [
            [key for part in step for batch in part for key in batch]
            for step in zip(*rest, strict=True)
        ]
        assert steps == whole[4:]


def test_the_first_steps_of_a_run_take_single_frames():
    """Counted through epochs, of which each has five steps here; a restart goes on as it was."""
    plain = ClipBatchSampler([10], 2, seed=3)
    sampler = ClipBatchSampler([10], 2, seed=3, single_frame_steps=7)
    for epoch, single in ((0, 5), (1, 2), (2, 0)):
        plain.set_epoch(epoch)
        sampler.set_epoch(epoch)
        steps = list(sampler)
        assert [[key.is_single for key in step] for step in steps] == [
            [number < single] * 2 for number in range(5)
        ]
        items = [[key._replace(is_single=False) for key in step] for step in steps]
        assert items == list(plain)
        sampler.set_epoch(epoch, start_step=1)
        assert list(sampler) == steps[1:]


@pytest.mark.parametrize(("global_batch", "world_size"), [(6, 4), (2, 3), (0, 1)])
def test_a_batch_that_cannot_be_shared_is_refused(global_batch, world_size):
    with pytest.raises(ValueError, match=r"cannot be shared evenly by \d processes"):
        ClipBatchSampler([10], global_batch, seed=0, world_size=world_size)


def test_rank_must_fit():
    with pytest.raises(ValueError, match="rank"):
        ClipBatchSampler([10], 2, seed=0, rank=2, world_size=2)


def test_a_window_holds_the_frame_and_others_around_it():
    drawn = [sample_window(20, 50, 5, 10, np.random.default_rng(seed)) for seed in range(200)]
    assert all(frames == sorted(frames) and 20 in frames for frames in drawn)
    others = [f for frames in drawn for f in frames if f != 20]
    assert set(others) == {*range(10, 20), *range(21, 31)}
    assert all(frames.count(20) == 1 for frames in drawn)
    assert any(len(set(frames)) < 5 for frames in drawn)  # each is drawn by itself
    assert sample_window(0, 1, 3, 10, np.random.default_rng(0)) == [0, 0, 0]
    assert set(sample_window(0, 3, 9, 10, np.random.default_rng(0))) == {0, 1, 2}
