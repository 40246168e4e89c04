"""A training step waits for the device once, for the matching costs; nothing else is read back."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from seqformer.config import OptimConfig
from seqformer.criterion import matcher, targets
from seqformer.devices import HostCopy
from seqformer.distributed.context import DistributedContext
from seqformer.trainer.trainer import Trainer
from tests.trainer.one_step import build_step
from tests.trainer.tiny import build_tiny_loader, make_batch, tiny_config

READS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal"}
"""Operators whose result the host needs, or whose shape it does: on a GPU, each waits."""
WAYS = [
    pytest.param({}, id="fp32"),
    pytest.param({"precision": "bf16"}, id="bf16"),
    pytest.param({"precision": "fp16"}, id="fp16"),
    pytest.param({"frame_chunk": 1}, id="chunks"),
    pytest.param({"optim": OptimConfig(muon=2.0)}, id="muon"),
    pytest.param({"execution": {"recompute": ("backbone", "encoder", "decoder")}}, id="recompute"),
]


def one_step(device="cpu", **how):
    """A step to call, after one that has warmed up what is made only once."""
    parallel = DistributedContext(device=torch.device(device))
    step = build_step(parallel, "none", dtype=torch.float32, clip_max_norm=0.1, **how)
    batch = make_batch(0, 0, range(3)).to(device)
    step([batch], 6.0)
    return lambda: step([batch], 6.0)


def reads(run) -> Counter[str]:
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    actual: Counter[str] = Counter()
    for event in profiled.events():
        name = event.name.removeprefix("aten::")
        actual[name] += name in READS and not is_inside(event, "aten::_fused_adamw_")
    return +actual


def is_inside(event: FunctionEvent | None, name: str) -> bool:
    """The fused optimiser reads its own step counters on a CPU; on a GPU its kernel does."""
    while event is not None and event.name != name:
        event = event.cpu_parent
    return event is not None


class HostData(TorchDispatchMode):
    """Counts tensors made of Python numbers, which reach a device by a copy that waits, and
    indices that are masks, which have no shape before they are looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name == "lift_fresh":
            self.found[name] += 1
        elif name.startswith(("index", "_index", "_unsafe_index")) and len(args) > 1:
            indices = args[1] if isinstance(args[1], (list, tuple)) else []
            masks = [i for i in indices if i is not None and i.dtype in (torch.bool, torch.uint8)]
            self.found["mask index"] += bool(masks)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch):
    """How often the step waited."""
    seen = []
    wait = HostCopy.wait
    monkeypatch.setattr(HostCopy, "wait", lambda self: (seen.append(self), wait(self))[1])
    return seen


@pytest.mark.parametrize("how", WAYS)
def test_a_step_reads_nothing_back_but_the_costs(how, waits):
    run = one_step(**how)
    waits.clear()
    assert reads(run) == {}
    assert len(waits) == 1


def test_small_constants_do_not_wait_on_their_way(monkeypatch):
    run = one_step()
    counter = HostData()
    send = targets.to_device

    def unseen(numbers, like, dtype):
        before = counter.found.copy()
        sent = send(numbers, like, dtype)
        counter.found = before
        return sent

    monkeypatch.setattr(targets, "to_device", unseen)
    monkeypatch.setattr(matcher, "to_device", unseen)
    with counter:
        run()
    assert +counter.found == {}


def test_what_waits_is_seen():
    x = torch.arange(4.0)
    assert reads(lambda: x.sum().item()) == {"item": 1, "_local_scalar_dense": 1}
    assert reads(lambda: x[x > 1])["nonzero"] == 1
    with HostData() as counter:
        x.new_tensor([1.0, 2.0])
        x[x > 1]
    assert counter.found == {"lift_fresh": 1, "mask index": 1}


def test_batches_are_pinned_for_a_gpu_only(tiny_data, tmp_path, monkeypatch):
    """Pinning makes a CUDA context, which a run on the CPU has no use for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Trainer(tiny_config(tmp_path), DistributedContext()).loader.pin_memory is False
    monkeypatch.setattr("seqformer.trainer.trainer.build_training", lambda *args, **kwargs: 1 / 0)
    made = []
    build = build_tiny_loader
    monkeypatch.setattr(
        "seqformer.trainer.trainer.build_train_loader",
        lambda *args, **kwargs: made.append(build(*args, **kwargs)) or made[0],
    )
    with pytest.raises(ZeroDivisionError):
        Trainer(tiny_config(tmp_path), DistributedContext(device=torch.device("cuda", 0)))
    assert made[0][0].pin_memory is True


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("how", WAYS)
def test_a_step_on_a_gpu_waits_for_the_costs_only(how, waits):
    run = one_step("cuda", **how)
    waits.clear()
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")  # an event's wait, the declared one, is no error
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert len(waits) == 1
