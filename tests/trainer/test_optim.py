"""Parameter groups against the published optimiser, and the schedules' values."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from seqformer.config import ModelConfig, OptimConfig
from seqformer.model import build_model_from_config
from seqformer.trainer.optim import (
    apply_schedule,
    build_optimizer,
    clip_gradients,
    lr_factor,
    parameter_groups,
)
from tests.trainer.tiny import tiny_model_config

MANIFEST = Path(__file__).parents[1] / "golden" / "manifests" / "r50_param_groups.json"


def test_groups_of_resnet50_equal_the_published_ones_in_order():
    published = json.loads(MANIFEST.read_text())
    with torch.device("meta"):
        model = build_model_from_config(ModelConfig())
    groups = {g["name"]: g for g in parameter_groups(model, OptimConfig())}
    assert list(groups) == ["main", "backbone", "linear_proj"]
    for name, group in groups.items():
        assert [n for n, _ in group["params"]] == published[name]
    assert [groups[n]["lr"] for n in groups] == pytest.approx([2e-4, 2e-5, 2e-5])


def test_unused_projections_are_listed_but_neither_updated_nor_decayed():
    model = build_model_from_config(tiny_model_config())
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.5))
    unused = {n: p for n, p in model.named_parameters() if not p.requires_grad}
    assert unused and all("output_proj_box" in name for name in unused)
    listed = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert {id(p) for p in model.parameters()} == listed
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        if p.requires_grad:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        decayed = name not in unused and bool(before[name].any())
        assert torch.equal(p, before[name]) != decayed, name


@pytest.mark.parametrize(
    "step,factor", [(0, 1.0), (399, 1.0), (400, 0.1), (999, 0.1), (1000, 0.01), (1199, 0.01)]
)
def test_step_schedule_drops_after_whole_epochs(step, factor):
    assert lr_factor(step, OptimConfig(), 100, 1200) == pytest.approx(factor)


def test_cosine_schedule_warms_up_and_ends_at_its_floor():
    config = OptimConfig(schedule="cosine", warmup_steps=4, cosine_floor=0.1)
    factors = [lr_factor(step, config, 10, 24) for step in range(25)]
    assert factors[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert factors[4] == pytest.approx(1.0)
    assert factors[14] == pytest.approx(0.55)  # half way
    assert factors[24] == pytest.approx(0.1)
    assert factors[4:] == sorted(factors[4:], reverse=True)


def test_schedule_moves_every_group_by_the_same_factor():
    model = build_model_from_config(tiny_model_config())
    config = OptimConfig(lr_drop_epochs=(1,))
    optimizer = build_optimizer(model, config)
    apply_schedule(optimizer, config, 0, 2, 4)
    apply_schedule(optimizer, config, 2, 2, 4)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([2e-5, 2e-6, 2e-6])


@pytest.mark.parametrize("max_norm,expected", [(1.0, 1.0), (100.0, 13.0), (0.0, 13.0)])
def test_clipping_bounds_the_joint_norm(max_norm, expected):
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    for parameter, value in zip(parameters, (3.0, 4.0, 12.0), strict=True):
        parameter.grad = torch.tensor([value])
    parameters.append(nn.Parameter(torch.zeros(1)))  # no gradient
    assert clip_gradients(parameters, max_norm).item() == pytest.approx(13.0)
    joint = torch.stack([p.grad for p in parameters[:3]]).norm().item()
    assert joint == pytest.approx(expected, rel=1e-5)
