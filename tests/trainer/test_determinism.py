"""The deterministic mode of training and evaluation."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file

from seqformer.cli import eval as command
from seqformer.config import override
from seqformer.determinism import deterministic_algorithms
from seqformer.trainer import step as training_step
from seqformer.trainer.trainer import train
from tests.trainer.tiny import tiny_config


def modes() -> tuple[bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


@pytest.fixture
def workspace(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    return monkeypatch


def test_inside_and_after(workspace):
    workspace.setattr(torch.backends.cudnn, "benchmark", True)
    with deterministic_algorithms():
        assert modes() == (True, True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert modes() == (False, False, True)
    with deterministic_algorithms(False):
        assert modes() == (False, False, True)


def test_a_workspace_that_is_not_deterministic_is_refused(workspace):
    workspace.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(ValueError, match=r"':0:0'.*unset it, or set it to :4096:8"):
        deterministic_algorithms().__enter__()
    assert modes()[0] is False


def test_too_late_for_the_workspace_is_said(workspace):
    workspace.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match="CUDA has started without CUBLAS_WORKSPACE_CONFIG"):
        deterministic_algorithms().__enter__()
    workspace.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic_algorithms():
        assert modes()[0]


def test_two_runs_give_the_same_bits(tiny_data, tmp_path, workspace):
    seen = []
    clip = training_step.clip_gradients
    workspace.setattr(
        training_step, "clip_gradients", lambda *args: seen.append(modes()) or clip(*args)
    )
    weights = []
    for name in ("first", "second"):
        train(override(tiny_config(tmp_path / name, max_steps=2), deterministic=True))
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    first, second = weights
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert seen == [(True, True, False)] * 4 and modes()[0] is False


def test_evaluation_has_the_mode(workspace, tmp_path):
    """Around everything that computes: it is on when the processes meet."""
    seen = []

    def meet(device, **options):
        seen.append(modes())
        raise ValueError("enough")

    workspace.setattr("seqformer.distributed.context.distributed_context", meet)
    (tmp_path / "weights").write_bytes(b"")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.jpg").write_bytes(b"")
    arguments = ["--weights", "weights", "--images", "images", "--output", "out.json"]
    workspace.chdir(tmp_path)
    for options in (["--deterministic"], []):
        assert command.main([*arguments, *options]) == 2
    assert seen == [(True, True, False), (False, False, False)]
