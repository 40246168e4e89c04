"""The device of a process: what is asked for, and what the machine has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seqformer import devices
from seqformer.devices import HostCopy, choose_device, device_of, to_device
from seqformer.inference.network import FrameNetwork
from tests.inference.small_model import film, small_model


def machine(monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


@pytest.mark.parametrize(("choice", "gpus"), [("cpu", 2), ("cpu", 0), ("auto", 0)])
def test_cpu(choice, gpus, monkeypatch):
    current = machine(monkeypatch, gpus)
    assert device_of(choice, 1) == torch.device("cpu") and current == []


@pytest.mark.parametrize("choice", ["cuda", "auto"])
def test_each_process_has_its_gpu(choice, monkeypatch):
    current = machine(monkeypatch, 2)
    assert device_of(choice, 1) == torch.device("cuda", 1) and current == [1]


def test_no_gpu(monkeypatch):
    machine(monkeypatch, 0)
    with pytest.raises(ValueError, match="no usable GPU; use cpu"):
        device_of("cuda")


def test_more_processes_than_gpus(monkeypatch):
    machine(monkeypatch, 2)
    with pytest.raises(ValueError, match="local rank 2 has no GPU: this machine has 2"):
        device_of("cuda", 2)


def test_a_predictor_for_a_gpu_that_is_not_there(monkeypatch):
    machine(monkeypatch, 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match=r"device cuda:2 was asked for .* has 2 GPU\(s\)"):
        choose_device("cuda:2")


class Machine:
    """Two GPUs that only take notes: which is current, and where events and pins happen."""

    def __init__(self, monkeypatch):
        self.current, self.log = 0, []
        machine = self

        class Guard:
            def __init__(self, device):
                self.index = torch.device(device).index

            def __enter__(self):
                self.before, machine.current = machine.current, self.index

            def __exit__(self, *_):
                machine.current = self.before

        class Event:
            def __init__(self):
                machine.log.append(("event", machine.current))

            def record(self, stream=None):
                stream = ("stream", machine.current) if stream is None else stream
                machine.log.append(("record", stream))

            def synchronize(self):
                machine.log.append(("wait", None))

        monkeypatch.setattr(torch.cuda, "device", Guard)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        stream = lambda device: ("stream", torch.device(device).index)  # noqa: E731
        monkeypatch.setattr(torch.cuda, "current_stream", stream)
        empty = torch.empty

        def pinned(*shape, pin_memory=False, **options):
            if pin_memory:
                machine.log.append(("pin", machine.current))
            return empty(*shape, **options)

        monkeypatch.setattr(torch, "empty", pinned)


class Remote(torch.Tensor):
    """A CPU tensor that says it is on the second GPU."""

    device = torch.device("cuda", 1)

    @staticmethod
    def made(values):
        return torch.Tensor._make_subclass(Remote, values)


def test_a_copy_uses_the_tensors_gpu_and_not_the_current_one(monkeypatch):
    machine = Machine(monkeypatch)
    values = [torch.arange(6.0).view(2, 3), torch.tensor(True)]
    copy = HostCopy(*(Remote.made(v) for v in values))
    assert machine.log == [("pin", 1), ("pin", 1), ("event", 1), ("record", ("stream", 1))]
    assert machine.current == 0
    arrays = copy.wait()
    assert machine.log[-1] == ("wait", None)
    for array, value in zip(arrays, values, strict=True):
        np.testing.assert_array_equal(array, value.numpy())


def test_numbers_are_pinned_for_the_gpu_they_go_to(monkeypatch):
    machine = Machine(monkeypatch)
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: pinned.append(machine.current) or t)
    moved = []
    move = lambda t, device, non_blocking: moved.append((device, non_blocking)) or t  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "to", move)
    to_device([[1, 2]], Remote.made(torch.zeros(1)), torch.float32)
    assert pinned == [1] and moved == [(torch.device("cuda", 1), True)]


def test_nothing_is_pinned_for_a_cpu(monkeypatch):
    machine = Machine(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: pytest.fail("pinned"))
    (array,) = HostCopy(torch.ones(3)).wait()
    assert array.tolist() == [1, 1, 1] and machine.log == []
    assert to_device([1.5], torch.zeros(1), torch.float64).tolist() == [1.5]


@pytest.mark.parametrize("entry", ["frames", "instances"])
def test_a_network_on_the_second_gpu_computes_there(entry, monkeypatch):
    """Whatever names no device, such as the launch of a kernel, finds the model's GPU current."""
    network = FrameNetwork(small_model(), "fp32", torch.device("cpu"))
    portion = network.frames(list(film(2)))
    machine = Machine(monkeypatch)
    seen = []
    owner, stream = {
        "frames": (network, "_box_stream"),
        "instances": (network._model, "instance_stream"),
    }[entry]
    inner = getattr(owner, stream)
    monkeypatch.setattr(owner, stream, lambda *args: seen.append(machine.current) or inner(*args))
    monkeypatch.setattr("seqformer.inference.network.sent", lambda host, device: host)
    network.device = torch.device("cuda", 1)
    network.frames(list(film(2))) if entry == "frames" else network.instances(portion.pool(0, 2))
    assert seen == [1] and machine.current == 0


def test_freed_memory_is_kept_for_the_next_step(monkeypatch):
    said = []
    monkeypatch.setattr(devices, "_set_malloc_option", lambda *given: said.append(given))
    devices.keep_freed_memory(3)
    assert said == [(-3, 32 << 20), (-1, 3 << 20)]
