"""8-bit layers are what their definition says, in exact arithmetic, and ranges what was seen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from seqformer.model import Int8Ranges, inference_copy
from seqformer.model import int8_products as products
from seqformer.model.int8_layers import Int8ResNet, has_int8_layers
from seqformer.model.int8_products import Int8Conv2d, Int8Linear, Scale, to_floats, to_integers
from seqformer.model.int8_ranges import fingerprint, measure_ranges
from tests.model.test_inference_copy import build

needs_int8 = pytest.mark.skipif(
    products.why_not_available() is not None, reason="this CPU has no 8-bit products"
)
SOURCE, TARGET, OTHER = Scale(0.013, 0), Scale(0.021, 0), Scale(0.017, 93)


def exact(step: float) -> float:
    """A step as oneDNN has it."""
    return float(torch.tensor(step, dtype=torch.float32))


def numbers(integers: torch.Tensor, scale: Scale) -> torch.Tensor:
    return (integers.double() - scale.zero) * exact(scale.step)


def assert_rounded(actual: torch.Tensor, expected: torch.Tensor, scale: Scale) -> None:
    """`actual` holds the integers nearest to numbers; either, within float32 of a tie."""
    position = (expected / exact(scale.step) + scale.zero).clamp(0, 255)
    assert ((actual.double() - position).abs() <= 0.5 + 1e-4).all()
    assert len(actual.unique()) > 20, "clamped to nothing"


def convolution(layer: Int8Conv2d, x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """What a layer should give before sum and ReLU, in float64."""
    shape = (-1, 1, 1, 1)
    weight = layer.integers.values.double() * layer.integers.steps.double().view(shape)
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    return F.conv2d(numbers(x, SOURCE), weight, layer.integers.bias.double(), *geometry)


@needs_int8
@pytest.mark.parametrize(
    ("kernel", "stride", "groups"), [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 4)]
)
@pytest.mark.parametrize("has_bias", [False, True])
@torch.inference_mode()
def test_convolution_relu_and_sum_are_those_of_exact_arithmetic(kernel, stride, groups, has_bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(24, 36, kernel, stride, kernel // 2, groups=groups, bias=has_bias)
    for shape in ((2, 24, 11, 9), (1, 24, 6, 7)):  # weights are laid out per shape
        x = torch.randint(0, 256, shape, dtype=torch.uint8)
        for relu, target in ((False, OTHER), (True, TARGET)):
            layer = Int8Conv2d(conv, SOURCE, target, relu)
            expected = convolution(layer, x, conv)
            assert_rounded(layer(x), expected.relu() if relu else expected, target)
        other = torch.randint(0, 256, expected.shape, dtype=torch.uint8)
        other = other.contiguous(memory_format=torch.channels_last)
        total = (expected + numbers(other, OTHER)).relu()
        assert_rounded(layer.add_to(other.clone(), OTHER, x), total, TARGET)
    for side in range(2, 10):
        layer(torch.zeros(1, 24, side, side, dtype=torch.uint8))
    assert len(layer._packed) == products.MOST_SHAPES


@needs_int8
@torch.inference_mode()
def test_linear_layers_are_those_of_exact_arithmetic():
    torch.manual_seed(0)
    linear = nn.Linear(130, 70)
    x = torch.randn(3, 5, 130)
    source = Scale.of(float(x.min()), float(x.max()))
    layer, hidden = Int8Linear(linear, source), Int8Linear(linear, source, TARGET)
    weight = layer.integers.values.double() * layer.integers.steps.double()[:, None]
    expected = numbers(to_integers(x, source), source) @ weight.t() + linear.bias.double()
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert_rounded(hidden(x), expected.relu(), TARGET)
    torch.testing.assert_close(layer(to_integers(x, source)), layer(x))
    torch.testing.assert_close(layer(x), linear(x), rtol=0, atol=0.05)


@torch.inference_mode()
def test_integers_of_numbers_and_back():
    scale = Scale.of(-1.0, 3.0)
    x = torch.linspace(-2, 4, 1001)
    integers = to_integers(x, scale)
    assert integers.dtype == torch.uint8 and (integers[0], integers[-1]) == (0, 255)
    inside = (x >= -1) & (x <= 3)
    assert (numbers(integers, scale) - x)[inside].abs().max() <= scale.step * 0.501
    assert numbers(to_integers(torch.zeros(1), scale), scale) == 0, "0 is exact"
    assert Scale.of(0.5, 25.5) == Scale(0.1, 0) and Scale.of(0.0, 0.0).step == 1
    back = to_floats(integers, Scale(0.5, 0), torch.bfloat16)
    assert back.dtype == torch.bfloat16 and back.max() == 127.5


@pytest.fixture(scope="module")
def resnet50():
    return build("resnet50")


def pictures():
    torch.manual_seed(1)
    return torch.randn(1, 2, 3, 72, 88)


@needs_int8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_on_integers_is_near_the_model(resnet50, dtype, monkeypatch):
    monkeypatch.setattr("seqformer.model.int8_layers.LEAST_CHANNELS", 1)
    model, images = resnet50, pictures()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ranges = measure_ranges(model, inference_copy(model), images.split(1, 1))
    copy = inference_copy(model, dtype, packs=True, ranges=ranges)
    assert isinstance(copy.backbone, Int8ResNet)
    linears = sum(isinstance(m, Int8Linear) for m in copy.modules())
    assert linears == (4 + 2 * 3 if dtype == torch.float32 else 0)
    with torch.inference_mode():
        expected, actual = model(images), copy(images.to(dtype))
        again = copy(images.to(dtype))
        maps = model.backbone(images[0])[1:], copy.backbone(images[0].to(dtype))[1:]
    for one, other in zip(*maps, strict=True):
        assert (one - other.float()).norm() <= 0.05 * one.norm()
    for name, limit in (("class_logits", 0.02), ("boxes", 0.02), ("mask_features", 0.2)):
        one, other = getattr(actual, name).float(), getattr(expected, name)
        assert (one - other).norm() <= limit * other.norm(), name
        assert torch.equal(getattr(again, name).float(), one), f"{name}: an input was overwritten"
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_ranges_are_the_extremes_of_all_frames(resnet50, tmp_path):
    model, images = resnet50, pictures()
    frames = images.split(1, 1)
    plain = inference_copy(model)
    ranges = measure_ranges(model, plain, frames)
    own = [measure_ranges(model, plain, [frame]).places for frame in frames]
    for name, (low, high) in ranges.places.items():
        assert low == min(p[name][0] for p in own) and high == max(p[name][1] for p in own)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in plain.modules())
    with torch.inference_mode():
        seen = plain.backbone(images[0])[3]
    low, high = ranges.places["backbone.layer4.2"]
    assert low == 0 and high == pytest.approx(float(seen.max()), rel=1e-5)
    ranges.save(tmp_path / "ranges.json")
    assert Int8Ranges.load(tmp_path / "ranges.json") == ranges
    assert ranges.weights == fingerprint(model)
    with torch.no_grad():
        bias = model.controller.layers[-1].bias
        kept = bias.clone()
        bias[0] += 1
        assert ranges.weights != fingerprint(model)
        bias.copy_(kept)
    with pytest.raises(ValueError, match="there is none"):
        measure_ranges(model, plain, [])
    with pytest.raises(ValueError, match=r"at backbone\.conv1 are NaN or infinite"):
        measure_ranges(model, plain, [torch.full_like(frames[0], torch.nan)])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "seqformer int8 ranges 1"}'])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "ranges.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"ranges\.json is no file of ranges"):
        Int8Ranges.load(path)
    with pytest.raises(FileNotFoundError, match=r"ranges file .*none\.json"):
        Int8Ranges.load(tmp_path / "none.json")


def test_where_there_are_no_8_bit_products(resnet50, monkeypatch):
    low = torch.bfloat16
    assert has_int8_layers(resnet50, low) and not has_int8_layers(build("swin_t"), low)
    assert not has_int8_layers(build("resnet_mini"), torch.float32), "too few channels"
    monkeypatch.setattr(products, "_has_vnni", lambda: False)
    assert "AVX512-VNNI" in products.why_not_available()
    monkeypatch.setattr(products, "_has_vnni", lambda: True)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with torch.backends.mkldnn.flags(enabled=False):
        assert "switched off" in products.why_not_available()
    monkeypatch.setattr(products, "_OPERATORS", ("no_such_operator",))
    assert "no 8-bit convolutions" in products.why_not_available()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "needs a CPU" in products.why_not_available()
