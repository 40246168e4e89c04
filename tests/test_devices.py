"""The device of a process: what is asked for, and what the machine has."""

from __future__ import annotations

import pytest
import torch

from seqformer.devices import device_of


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
