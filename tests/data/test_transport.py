"""Batches from decoding processes: whole, without /dev/shm, and what if such a process dies."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from seqformer.data.clip_loader import DeadWorkerError
from seqformer.data.loader import build_train_loader
from seqformer.data.transport import PackedBatch
from seqformer.structures import ClipBatch
from tests.data.test_loader import assert_equal_batches, batches_of, config_of


def batch(instances: int) -> ClipBatch:
    target = {
        "labels": torch.arange(instances),
        "boxes": torch.rand(instances, 2, 4),
        "masks": torch.rand(instances, 2, 5, 7) > 0.5,
        "size": (5, 7),
    }
    images = torch.rand(3, 2, 3, 32, 32)
    padding_mask = torch.rand(3, 32, 32) > 0.5
    return ClipBatch(images, padding_mask, [target, {}, target], ["a", "b"], ["broken one"])


@pytest.mark.parametrize("instances", [0, 1, 3])
def test_a_batch_survives_its_way_and_can_be_written(instances):
    sent = batch(instances)
    got = PackedBatch(sent).unpack()
    assert torch.equal(got.images, sent.images)
    assert torch.equal(got.padding_mask, sent.padding_mask)
    for left, right in zip(got.targets, sent.targets, strict=True):
        assert left.keys() == right.keys()
        for key, value in right.items():
            assert value == left[key] if key == "size" else torch.equal(value, left[key])
            assert key == "size" or value.dtype == left[key].dtype
    assert (got.ids, got.broken) == (sent.ids, sent.broken)
    got.images.zero_()
    first = got.targets[0]["labels"].clone()
    del got.images, got.padding_mask
    gc.collect()  # the memory stays with its last tensor
    assert torch.equal(got.targets[0]["labels"], first)


def test_workers_use_no_shared_memory_files_and_few_handles(small, monkeypatch):
    """A container's /dev/shm holds 64 MB; a shell allows some hundred open files."""

    def full(*arguments):
        raise RuntimeError("unable to allocate shared memory(shm)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    loader, _ = build_train_loader(config_of(small, num_workers=2), seed=3)
    loader.batch_sampler.set_epoch(0)
    handles = len(os.listdir("/proc/self/fd"))
    kept = []
    for number, one in enumerate(loader):
        kept.append(one)
        if number == 0:
            started = len(os.listdir("/proc/self/fd"))
    assert len(kept) > 3 and started - handles < 40
    assert len(os.listdir("/proc/self/fd")) < started + len(kept)  # one each
    loader.close()
    assert_equal_batches(kept, batches_of(config_of(small)))


def start(small, workers: int = 1):
    loader, _ = build_train_loader(config_of(small, num_workers=workers), seed=3)
    loader.batch_sampler.set_epoch(0)
    return loader, iter(loader)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_worker_is_said_within_seconds(small, number):
    loader, batches = start(small)
    next(batches)
    os.kill(loader._workers[0].pid, number)
    began = time.monotonic()
    how = "killed" if number == signal.SIGKILL else "SIGSEGV"
    with pytest.raises(DeadWorkerError, match=f"a decoding process ended .{how}"):
        for _ in range(100):
            next(batches)
    assert time.monotonic() - began < 30
    began = time.monotonic()
    loader.close()
    assert time.monotonic() - began < 10
    assert len(list(loader)) > 0  # it can be used again


def test_a_worker_that_dies_between_two_epochs_is_said_with_the_next_batch(small):
    loader, batches = start(small)
    assert len(list(batches)) > 1
    loader._workers[0].kill()
    loader.batch_sampler.set_epoch(1)
    batches = iter(loader)
    with pytest.raises(DeadWorkerError, match="a decoding process ended"):
        next(batches)
    loader.close()


def test_requests_to_end_a_job_leave_workers_alone(small):
    loader, batches = start(small)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        os.kill(loader._workers[0].pid, number)
    assert len(list(batches)) > 1
    loader.close()


def test_hanging_workers_do_not_hold_the_end_back(small):
    loader, batches = start(small, workers=2)
    next(batches)
    pids = [worker.pid for worker in loader._workers]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    del batches, loader
    gc.collect()
    assert time.monotonic() - began < 10
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_locks_that_cannot_be_made_are_said(small, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter", full)
    loader, _ = build_train_loader(config_of(small, num_workers=1), seed=3)
    with pytest.raises(OSError, match=r"No space left.*/dev/shm.*--data.num-workers 0"):
        iter(loader)


def test_a_broken_file_in_a_worker_is_not_a_dead_worker(small, tmp_path):
    images = shutil.copytree(small.images, tmp_path / "copy")
    for frame in sorted(images.rglob("*.jpg")):
        if frame.name != "00000.jpg":
            frame.write_bytes(frame.read_bytes()[:100])
    config = config_of(small, num_workers=1, max_broken_share=0.0, train_images=images)
    loader, _ = build_train_loader(config, seed=3)
    loader.batch_sampler.set_epoch(0)
    with pytest.raises(ValueError, match=r"\.jpg") as error:
        list(loader)
    assert not isinstance(error.value, DeadWorkerError)
    loader.close()
