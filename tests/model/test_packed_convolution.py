"""Packed convolutions give what plain ones give, and leave the model as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from seqformer.model import inference_copy
from seqformer.model.packed_convolution import PackedConv2d, can_pack
from tests.model.test_inference_copy import build

pytestmark = pytest.mark.skipif(
    not can_pack(torch.bfloat16), reason="no oneDNN, or none of its bfloat16 on this CPU"
)


@pytest.mark.parametrize("backbone", ["resnet50", "resnext101_32x8d", "resnet_mini", "swin_t"])
def test_results_are_those_of_plain_convolutions(backbone):
    model, dtype = build(backbone), torch.bfloat16
    plain, packed = (inference_copy(model, dtype, packs=packs) for packs in (False, True))
    assert not any(isinstance(m, nn.Conv2d) for m in packed.modules())
    images = torch.randn(1, 2, 3, 72, 88).to(dtype)
    with torch.inference_mode():
        expected, actual = plain(images), packed(images)
        again = packed(images)
    for name in ("class_logits", "boxes", "mask_features"):
        one, other = getattr(actual, name).float(), getattr(expected, name).float()
        assert (one - other).abs().max() <= 0.06 * max(1, other.abs().max()), name
        assert torch.equal(getattr(again, name).float(), one), f"{name}: an input was overwritten"


def test_the_model_itself_stays_as_it_is():
    model = build("resnet50")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy = inference_copy(model, torch.bfloat16, packs=True)
    with torch.inference_mode():
        copy(torch.randn(1, 1, 3, 72, 88).bfloat16())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


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


def test_products_are_counted_as_before():
    model = build("resnet50")
    counted = []
    for packs in (False, True):
        copy = inference_copy(model, torch.bfloat16, packs=packs)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            copy.pyramid(torch.randn(1, 3, 72, 88).bfloat16())
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] > 0


def test_only_types_that_onednn_packs():
    for dtype in (torch.float32, torch.float64, torch.float16):
        assert not can_pack(dtype)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not can_pack(torch.bfloat16)
