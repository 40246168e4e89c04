"""Whatever the processes, modes and micro-batches: the step of one process on the whole batch."""

import math

import pytest
import torch

from seqformer.config import OptimConfig
from seqformer.distributed.context import DistributedContext, distributed_context
from seqformer.trainer.parallel_model import build_parallel_model
from tests.trainer.one_step import (
    assert_same,
    build_step,
    gradients,
    step_and_gradients,
    take_step,
)
from tests.trainer.tiny import make_batch

ONE = DistributedContext()


@pytest.fixture(scope="module")
def alone():
    """One process, all six clips at once, float64."""
    return step_and_gradients(ONE, "none", 1, {}, {})


@pytest.mark.parametrize("micro_batches", [2, 3, 6])
def test_accumulated_gradients_equal_those_of_one_large_batch(alone, micro_batches):
    assert_same(step_and_gradients(ONE, "none", micro_batches, {}, {}), alone, 1e-9)


def many_ways(parallel, ways):
    return [
        step_and_gradients(parallel, mode, micro_batches, {}, {}) for mode, micro_batches in ways
    ]


@pytest.mark.distributed
@pytest.mark.parametrize("processes,micro_batches", [(2, 3), (3, 2)])
def test_processes_equal_one_process_on_the_same_global_batch(
    lasting_processes, alone, processes, micro_batches
):
    """Float64. With three processes, each takes two clips one after the other; rank 0 and rank 1
    begin with a clip that has no instance."""
    ways = [("ddp", 1), ("ddp", micro_batches), ("fsdp", micro_batches), ("hsdp", 1)]
    for rank, results in enumerate(lasting_processes.run(processes, many_ways, ways)):
        for way, result in zip(ways, results, strict=True):
            assert_same(result, alone, 1e-9, f"rank {rank} {way}")


def few_instances(parallel, clips):
    """Fewer instances than processes: the count must be clamped once, over all."""
    step = build_step(parallel)
    losses = take_step(step, 1, clips=clips)
    return losses, gradients(step)


@pytest.mark.distributed
def test_instance_count_is_clamped_once_over_the_global_batch(lasting_processes):
    """Two clips: none and one instance on two processes."""
    expected = few_instances(ONE, 2)
    for result in lasting_processes.run(2, few_instances, 2):
        assert_same(result, expected, 1e-9)
    assert all(g.abs().sum() >= 0 for g in expected[1].values())


@pytest.mark.parametrize("frame_chunk", [0, 1])
def test_batch_without_any_instance_reaches_every_parameter(frame_chunk):
    step = build_step(ONE, "none", frame_chunk=frame_chunk)
    batch = make_batch(0, 0, range(0, 1))
    batch.images = batch.images.double()
    assert len(batch.targets[0]["labels"]) == 0
    losses = step([batch], 0)
    assert math.isfinite(losses["loss"])
    named = step.parallel_model.model.named_parameters()
    assert [n for n, p in named if p.requires_grad and p.grad is None] == []


def trajectory(parallel, mode, dtype, lr, steps):
    optim = OptimConfig(lr=lr, lr_backbone=lr / 10)
    step = build_step(parallel, mode, dtype=dtype, optim=optim, clip_max_norm=0.1)
    return [take_step(step, 1, number=n, clips=2)["loss"] for n in range(steps)]


@pytest.mark.distributed
@pytest.mark.parametrize(
    "dtype,lr,tolerance",
    [(torch.float32, 2e-4, 1e-4), (torch.float64, 2e-3, 1e-7)],
    ids=["float32 at the published rate", "float64 at ten times that"],
)
def test_sharded_training_follows_ddp_for_ten_steps(lasting_processes, dtype, lr, tolerance):
    """At the higher rate float32 would not do: an assignment flips on the last bit of a cost."""
    ddp, fsdp = (
        lasting_processes.run(2, trajectory, mode, dtype, lr, 10)[0] for mode in ("ddp", "fsdp")
    )
    assert fsdp == pytest.approx(ddp, rel=tolerance)
    assert len({round(loss, 3) for loss in ddp}) == 10


def refused(parallel):
    model = build_step(ONE, "none").parallel_model.model
    with pytest.raises(ValueError, match="--parallel none, but 2 processes were started"):
        build_parallel_model(model, "none", parallel)
    with pytest.raises(ValueError, match="2 processes cannot form 3 equal replicas"):
        build_parallel_model(model, "hsdp", parallel, replicas=3)


@pytest.mark.distributed
def test_modes_that_do_not_fit_the_processes_are_refused(lasting_processes):
    lasting_processes.run(2, refused)


def test_missing_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no usable GPU"), distributed_context("cuda"):
        pass
