"""Muon for matrices, AdamW for the rest: against a plain formula, one matrix at a time."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from seqformer.config import OptimConfig
from seqformer.model import build_model_from_config, published_name
from seqformer.trainer.muon import MOMENTUM, is_inside, orthogonalised
from seqformer.trainer.optim import build_optimizer, parameter_groups
from tests.trainer.tiny import tiny_model_config

CONFIG = OptimConfig(lr=1e-2, lr_backbone=2e-3, weight_decay=0.1, muon=2.0)


def a_model(seed=0):
    torch.manual_seed(seed)
    return build_model_from_config(tiny_model_config()).requires_grad_(True)


def give_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def plain_step(weight, gradient, momentum, rate, decay):
    """One matrix in float64. Returns: the new weight and momentum."""
    momentum = MOMENTUM * momentum + gradient
    x = gradient + MOMENTUM * momentum
    x = x / torch.linalg.matrix_norm(x)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    step = rate * 0.2 * max(x.shape) ** 0.5 * x
    return weight - step - rate * decay * weight, momentum


@pytest.mark.parametrize("shape", [(16, 16), (24, 80), (80, 24)])
def test_singular_values_come_near_to_one(shape):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, *shape, generator=generator) * torch.tensor([1e-6, 1.0, 1e6]).view(
        3, 1, 1
    )
    result = orthogonalised(matrices)
    values = torch.linalg.svdvals(result)
    assert values.max() < 1.25
    assert (values > 0.6).float().mean() > 0.9, "all but those that were next to nothing"
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    assert (torch.einsum("nij,nij->n", u @ v, result) / values.sum(1)).min() > 0.99
    torch.testing.assert_close(orthogonalised(matrices.mT), result.mT, rtol=1e-3, atol=1e-4)
    assert not orthogonalised(torch.zeros(1, *shape)).any()


def test_which_parameters_are_matrices():
    names = {published_name(n) for n, p in a_model().named_parameters() if is_inside(n, p)}
    inside = ("self_attn.in_proj_weight", "linear1.weight", "value_proj.weight", "conv2.weight")
    assert all(any(part in name for name in names) for part in inside)
    outside = ("sampling_offsets", "class_embed", "query_embed", "controller", "norm", "bias")
    assert not any(part in name for name in names for part in outside)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_steps_equal_the_plain_formula_and_adamw_elsewhere(layout):
    model = a_model().to(memory_format=layout)
    other = deepcopy(model)
    optimizer = build_optimizer(model, CONFIG)
    adamw = build_optimizer(other, replace(CONFIG, muon=0.0))
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {
        name: (p.detach().double(), torch.zeros(p.shape, dtype=torch.float64))
        for name, p in model.named_parameters()
    }
    for turn in range(3):
        give_gradients(model, turn)
        give_gradients(other, turn)
        optimizer.step()
        adamw.step()
        for name, parameter in model.named_parameters():
            if not is_inside(name, parameter):
                assert torch.equal(parameter, other.get_parameter(name)), name
                continue
            parts = 3 if "in_proj_weight" in name else 1
            gradient = parameter.grad.double()
            tensors = (expected[name][0], gradient, expected[name][1])
            pieces = zip(*(t.flatten(1).chunk(parts) for t in tensors), strict=True)
            moved = [plain_step(*piece, 2 * rates[parameter], 0.1) for piece in pieces]
            weight, momentum = (
                torch.cat(column).view_as(parameter) for column in zip(*moved, strict=True)
            )
            expected[name] = (weight, momentum)
            torch.testing.assert_close(parameter.double(), weight, rtol=1e-4, atol=1e-4)
    assert all(p.grad is not None for p in model.parameters())


def test_a_step_that_is_called_off_changes_nothing():
    model = a_model()
    optimizer = build_optimizer(model, CONFIG)
    give_gradients(model, 0)
    optimizer.step()
    before = deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    after = (model.state_dict(), optimizer.state_dict()["state"])
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    optimizer.found_inf = torch.tensor(0.0)
    give_gradients(model, 1)
    optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_saved_state_goes_on_as_if_never_stopped():
    models = [a_model(), a_model()]
    first, second = (build_optimizer(model, CONFIG) for model in models)
    give_gradients(models[0], 0)
    first.step()
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(deepcopy(first.state_dict()))
    for model, optimizer in zip(models, (first, second), strict=True):
        give_gradients(model, 1)
        optimizer.step()
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)


def test_groups_and_their_rates_are_those_of_adamw():
    model = a_model()
    optimizer = build_optimizer(model, CONFIG)
    groups = [g for g in parameter_groups(model, CONFIG) if g["params"]]
    assert [(g["name"], g["lr"]) for g in optimizer.param_groups] == [
        (g["name"], g["lr"]) for g in groups
    ]


def test_impossible_factors_are_refused():
    for factor in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"optim\.muon"):
            OptimConfig(muon=factor)
