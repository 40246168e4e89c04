"""Devices: what is asked about them, and that every launch is guarded by that of its tensors."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

import kernels
from bench.suite.problems.deformable_attention import Problem, run
from bench.suite.problems.mask_head import make_case, run_head, run_loss
from kernels import device


class Spy(device.DeviceFacts):
    """The interpreter's answers; notes which devices are made current."""

    def __init__(self):
        self.guarded, self.current = [], None

    @contextmanager
    def guard(self, device):
        self.guarded.append(device)
        before, self.current = self.current, device
        yield
        self.current = before


def test_a_stand_in_answers_until_its_block_ends():
    real = device.facts()
    outer, inner = Spy(), Spy()
    with device.replaced(outer):
        with pytest.raises(KeyError), device.replaced(inner):
            assert device.facts() is inner
            raise KeyError
        assert device.facts() is outer
    assert device.facts() is real


def test_real_devices():
    facts = device.DeviceFacts()
    cpu, gpu, meta = (torch.device(name) for name in ("cpu", "cuda:1", "meta"))
    assert [facts.is_gpu(d) for d in (cpu, gpu, meta)] == [False, True, False]
    assert not facts.can_launch(meta) and facts.can_launch(gpu)
    assert facts.can_launch(cpu) == facts.is_interpreted(cpu)
    assert facts.capability(cpu) == 90 and facts.target(cpu) == "cuda"


def test_a_stand_in_turns_tensors_of_the_cpu_into_those_of_a_gpu():
    class Emulated(device.DeviceFacts):
        def is_gpu(self, device):
            return device.type == "cpu"

    zeros = torch.zeros(1)
    assert kernels.backend.kernel_implementation(zeros) == "cpu"
    with device.replaced(Emulated()):
        assert kernels.backend.kernel_implementation(zeros) == "triton"
        assert not kernels.backend.is_reference_chosen(zeros)
        assert kernels.backend.is_reference_chosen(zeros.double())


def test_every_launch_is_guarded():
    case = make_case(1, 1, 1, 2, 3, num_layers=2)
    problem = Problem()
    with device.replaced(Spy()) as spy, kernels.use_backend("triton"):
        run("triton", problem, *problem.tensors(), torch.float32, torch.float32)
        assert len(spy.guarded) == 2
        run_head("triton", case, torch.ones(case.out_shape()), torch.float32)
        assert len(spy.guarded) == 2 + 3
        targets = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
        run_loss("triton", case, targets, torch.ones(1, 4), torch.float32)
        assert len(spy.guarded) == 2 + 3 + 4
        kernels.threshold_masks(torch.zeros(1, 2, 3), (4, 6))
    assert spy.guarded == 10 * [torch.device("cpu")] and spy.current is None


def test_only_another_device_is_guarded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    streams = {0: 11, 1: 22}
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", streams.__getitem__, raising=False)
    facts = device.DeviceFacts()
    here, there = torch.device("cuda", 0), torch.device("cuda", 1)
    guard = facts.guard(there)
    assert isinstance(guard, torch.cuda.device) and guard.idx == 1
    assert not isinstance(facts.guard(here), torch.cuda.device)
    assert [facts.stream(d) for d in (here, there, torch.device("cuda"))] == [11, 22, 11]


def test_what_was_made_for_a_device_is_forgotten_where_another_answers():
    cache = device.device_cache()
    cache["key"] = 1
    with device.replaced(Spy()):
        assert cache == {}
        cache["key"] = 2
    assert cache == {}
