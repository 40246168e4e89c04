"""Packed convolutions give what plain ones give, and leave the model as it is."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from seqformer._kernels import kernels
from seqformer.model import inference_copy
from seqformer.model import linear as linear_module
from seqformer.model.attention import QuerySelfAttention
from seqformer.model.linear import FEW_ROWS, SplitParameter, linear
from seqformer.model.packed_convolution import PackedConv2d, can_pack, can_split
from tests.model.test_inference_copy import build

TOLERANCES = {torch.float32: 2e-4, torch.bfloat16: 0.06}
"""Of the largest number: single weights of a random network are not made to forgive rounding."""


def skip_unless_packed(dtype):
    if not can_pack(dtype):
        pytest.skip(f"this CPU, its compiler or torch does not pack {dtype}")


@pytest.fixture
def _needs_bfloat16():
    skip_unless_packed(torch.bfloat16)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("backbone", ["resnet50", "resnext101_32x8d", "resnet_mini", "swin_t"])
def test_results_are_those_of_plain_convolutions(backbone, dtype):
    skip_unless_packed(dtype)
    model = build(backbone)
    plain, packed = (inference_copy(model, dtype, packs=packs) for packs in (False, True))
    is_plain = {m for m in packed.modules() if isinstance(m, nn.Conv2d)}
    assert not is_plain or dtype == torch.float32
    assert not any(can_split(m) for m in is_plain)
    images = torch.randn(1, 2, 3, 72, 88).to(dtype)
    with torch.inference_mode():
        expected, actual = plain(images), packed(images)
        again = packed(images)
    for name in ("class_logits", "boxes", "mask_features"):
        one, other = getattr(actual, name).float(), getattr(expected, name).float()
        assert (one - other).abs().max() <= TOLERANCES[dtype] * max(1, other.abs().max()), name
        assert torch.equal(getattr(again, name).float(), one), f"{name}: an input was overwritten"


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_model_itself_stays_as_it_is(dtype):
    skip_unless_packed(dtype)
    model = build("resnet50")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy = inference_copy(model, dtype, packs=True)
    with torch.inference_mode():
        copy(torch.randn(1, 1, 3, 72, 88).to(dtype))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {type(p) for p in model.parameters()} == {nn.Parameter}


@pytest.mark.usefixtures("_needs_bfloat16")
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 2, 1), (3, 1, 4), (3, 2, 1)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_one_convolution_with_relu_and_sum(kernel, stride, groups, has_bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, kernel, stride, kernel // 2, groups=groups, bias=has_bias)
    x = torch.randn(2, 8, 11, 9)
    with torch.inference_mode():
        expected = conv(x)
        torch.testing.assert_close(PackedConv2d(conv)(x), expected, rtol=1e-5, atol=1e-5)
        relu = PackedConv2d(conv, relu=True)(x)
        torch.testing.assert_close(relu, expected.relu(), rtol=1e-5, atol=1e-5)
        other = torch.randn_like(expected).contiguous(memory_format=torch.channels_last)
        total = (other + expected).relu()
        result = PackedConv2d(conv).add_to(other, x)
        assert result.data_ptr() == other.data_ptr()
        torch.testing.assert_close(result, total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_products_are_counted_as_before(dtype):
    skip_unless_packed(dtype)
    model = build("resnet50")
    counted = []
    for packs in (False, True):
        copy = inference_copy(model, dtype, packs=packs)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            copy.pyramid(torch.randn(1, 3, 72, 88).to(dtype))
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] > 0


def test_linear_layers_are_split_in_the_copy_only(monkeypatch):
    skip_unless_packed(torch.float32)
    channels = linear_module.SPLIT_CHANNELS
    monkeypatch.setattr(linear_module, "SPLIT_CHANNELS", 1)
    model = build("swin_t")
    copy = inference_copy(model, packs=True)
    attention = copy.decoder.layers[0].self_attn
    assert isinstance(attention, QuerySelfAttention) and attention.split_weights is not None
    split = {name for name, p in copy.named_parameters() if isinstance(p, SplitParameter)}
    assert {"controller.layers.0.weight", "encoder.layers.0.ffn.linear2.weight"} <= split
    with torch.inference_mode():
        for weight in (copy.get_parameter(name) for name in split):
            assert isinstance(weight, SplitParameter) and weight.parts is not None
            x = torch.randn(FEW_ROWS, weight.shape[1])
            torch.testing.assert_close(linear(x, weight), x @ weight.t(), rtol=1e-4, atol=1e-4)
            again = deepcopy(weight)
            torch.testing.assert_close(linear(x, again), x @ weight.t(), rtol=1e-4, atol=1e-4)
            few = x[: FEW_ROWS - 1]
            assert torch.equal(linear(few, weight), linear(few, weight.detach()))
    monkeypatch.setattr(linear_module, "SPLIT_CHANNELS", channels)
    kept = {n for n, p in inference_copy(model, packs=True).named_parameters() if _is_split(p)}
    assert kept == {name for name in split if min(copy.get_parameter(name).shape) >= channels}


def _is_split(parameter):
    return isinstance(parameter, SplitParameter)


def test_types_that_are_packed(monkeypatch):
    for dtype in (torch.float64, torch.float16):
        assert not can_pack(dtype)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not can_pack(torch.bfloat16)
    monkeypatch.setattr(kernels.split_product, "why_not_available", lambda: "no AMX")
    assert not can_pack(torch.float32)
