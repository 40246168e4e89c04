"""Recomputation, memory layout and compilation change nothing but cost."""

from functools import partial

import pytest
import torch

from seqformer.config import ComputeConfig
from seqformer.distributed.context import DistributedContext
from seqformer.trainer.build import build_training
from tests.trainer.one_step import assert_same, build_step, step_and_gradients, take_step
from tests.trainer.tiny import tiny_config

ONE = DistributedContext()
PARTS = ("backbone", "encoder", "decoder")


@pytest.fixture(scope="module")
def plain():
    return step_and_gradients(ONE, "none", 1, {}, {})


@pytest.mark.parametrize("part", PARTS)
def test_recomputed_part_gives_the_same_gradients_and_keeps_less(plain, part):
    execution = {"recompute": (part,)}
    assert_same(step_and_gradients(ONE, "none", 1, {"execution": execution}, {}), plain, 1e-12)
    assert kept_bytes(execution) < kept_bytes({})


def kept_bytes(execution) -> int:
    """What one forward pass keeps for the backward one."""
    step = build_step(ONE, "none", execution=execution)
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = step.parallel_model.forward(torch.zeros(1, 2, 3, 32, 64).double())
    assert output.boxes.requires_grad
    return sum(kept.values())


def test_recomputation_replays_dropout():
    losses = []
    for execution in ({}, {"recompute": PARTS}):
        torch.manual_seed(0)
        step = build_step(ONE, "none", execution=execution, dropout=0.3)
        torch.manual_seed(1)
        losses.append([take_step(step, 1, clips=2)["loss"] for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_channels_last_backbone_gives_the_same_gradients(plain):
    got = step_and_gradients(ONE, "none", 1, {"execution": {"channels_last": True}}, {})
    assert_same(got, plain, 1e-9)


def everything(parallel):
    """Recomputation inside FSDP, of clips in portions, in two micro-batches."""
    changes = {"execution": {"recompute": PARTS, "channels_last": True}, "frame_chunk": 1}
    return step_and_gradients(parallel, "fsdp", 3, changes, {})


@pytest.mark.distributed
def test_everything_together_equals_one_plain_process(lasting_processes, plain):
    for result in lasting_processes.run(2, everything):
        assert_same(result, plain, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_compiled_part_gives_the_same_gradients(plain, part):
    got = step_and_gradients(ONE, "none", 1, {"execution": {"compile": (part,)}}, {})
    assert_same(got, plain, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"frame_chunk": 1}])
def test_compiled_model_is_one_graph_with_the_same_gradients(plain, changes, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    execution = {"execution": {"compile": ("model",)}} | changes
    got = step_and_gradients(ONE, "none", 1, execution, {})
    assert_same(got, plain, 1e-9)


def test_compiled_model_is_for_whole_models(tmp_path):
    with pytest.raises(ValueError, match="choose one of them"):
        ComputeConfig(compile=("model", "encoder"))
    config = tiny_config(tmp_path, compile=("model",), parallel="fsdp")
    two = DistributedContext(world_size=2)
    with pytest.raises(ValueError, match="gathers it piece by piece"):
        build_training(config, two, is_new=True)
