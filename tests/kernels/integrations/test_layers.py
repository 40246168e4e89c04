"""What is handed to transformers and mmcv, without either: forms, values, patches."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kernels import integrations, ms_deform_attn_reference
from kernels.integrations import for_mmcv, for_transformers

SHAPES = [(6, 4), (3, 2)]
g = torch.Generator().manual_seed(0)
VALUE = torch.randn(2, 30, 2, 4, generator=g)
LOCATIONS = torch.rand(2, 5, 2, 2, 3, 2, generator=g)
WEIGHTS = torch.rand(2, 5, 2, 2, 3, generator=g)


def test_the_layer_has_the_form_that_kernelize_asks_for():
    layer = integrations.MultiScaleDeformableAttention
    assert list(inspect.signature(layer.forward).parameters) == [
        "self",
        "value",
        "value_spatial_shapes",
        "value_spatial_shapes_list",
        "level_start_index",
        "sampling_locations",
        "attention_weights",
        "im2col_step",
    ]
    assert layer.__init__ is nn.Module.__init__
    members = {name for name, _ in inspect.getmembers(layer)}
    of_modules = {name for name, _ in inspect.getmembers(nn.Module)}
    assert members - of_modules == {"has_backward", "can_torch_compile"}
    assert layer.has_backward and layer.can_torch_compile


def test_the_layer_computes_and_compiles():
    layer = integrations.MultiScaleDeformableAttention()
    tensors = torch.tensor(SHAPES), SHAPES, torch.tensor([0, 24])
    expected = ms_deform_attn_reference(VALUE, SHAPES, LOCATIONS, WEIGHTS)
    for forward in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        value = VALUE.clone().requires_grad_()
        output = forward(value, *tensors, LOCATIONS, WEIGHTS, 64)
        torch.testing.assert_close(output, expected)
        output.sum().backward()
        assert value.grad.abs().sum() > 0


@pytest.mark.parametrize("counts", [[3, 3], [1, 5], [4, 2]])
def test_levels_of_unequal_points(counts):
    locations, weights = LOCATIONS.flatten(3, 4), WEIGHTS.flatten(3, 4)
    expected, first, token = torch.zeros(2, 5, 8), 0, 0
    for (height, width), points in zip(SHAPES, counts, strict=True):
        own = slice(first, first + points)
        level = VALUE[:, token : token + height * width]
        given = locations[:, :, :, None, own], weights[:, :, :, None, own]
        expected += ms_deform_attn_reference(level, [(height, width)], *given)
        first, token = own.stop, token + height * width
    ours = for_transformers._uneven(lambda *arguments: "theirs")
    result = ours(VALUE, SHAPES, locations, weights, counts)
    torch.testing.assert_close(result, expected)
    assert ours(VALUE, SHAPES, locations, weights, counts, "discrete") == "theirs"


def test_a_model_without_the_layer_is_refused():
    with pytest.raises(ValueError, match="Linear has no multi-scale deformable attention"):
        integrations.use_in_transformers(nn.Linear(2, 2))


def test_a_layer_of_another_version_is_refused():
    class MultiScaleDeformableAttention(nn.Module):
        def forward(self, value, boxes):
            return value

    MultiScaleDeformableAttention.__module__ = "transformers.models.some"
    with pytest.raises(ValueError, match=r"calls Multi.* with \['value', 'boxes'\], and this"):
        integrations.use_in_transformers(MultiScaleDeformableAttention())


def test_a_patch_restores_and_forgets():
    owner, patch = SimpleNamespace(a=1), integrations.Patch()
    with patch:
        patch.set(owner, "a", 2)
        patch.set(owner, "a", 3)
        patch.set(owner, "b", 4)
        assert (owner.a, owner.b, len(patch)) == (3, 4, 3)
    assert vars(owner) == {"a": 1} and len(patch) == 0


def test_mmcv_function_takes_half_values_and_float32_locations():
    shapes, starts = torch.tensor(SHAPES), torch.tensor([0, 24])
    apply = for_mmcv.MultiScaleDeformableAttnFunction.apply
    expected = ms_deform_attn_reference(VALUE, SHAPES, LOCATIONS, WEIGHTS)
    torch.testing.assert_close(apply(VALUE, shapes, starts, LOCATIONS, WEIGHTS, 64), expected)
    output = apply(VALUE.bfloat16(), shapes, starts, LOCATIONS, WEIGHTS, torch.tensor(64))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, atol=0.05, rtol=0.02)
    with pytest.raises(ValueError, match="im2col_step 0 must divide"):
        apply(VALUE, shapes, starts, LOCATIONS, WEIGHTS, 0)


def test_mmcv_must_be_installed(monkeypatch):
    monkeypatch.setattr(for_mmcv, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="mmcv is not installed"):
        integrations.use_in_mmcv()
