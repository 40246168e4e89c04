"""Operators that stand in a compiler's graph give what the plain formulas give, gradients too."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from seqformer.config import ModelConfig
from seqformer.model.graph_convolution import GraphConv2d, convolution, use_graph_convolutions
from seqformer.model.level_tokens import level_rows, maps_of_tokens, tokens_of_maps
from seqformer.model.seqformer import SeqFormer

SHAPES = [(5, 7), (3, 4), (2, 2), (1, 1)]
S = sum(h * w for h, w in SHAPES)
PLACE = torch.empty(S)


def drawn(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)


def same(given, expected, inputs):
    """Results and gradients."""
    given, expected = ([x] if isinstance(x, torch.Tensor) else x for x in (given, expected))
    gradients = []
    for results in (given, expected):
        loss = sum((x * torch.arange(x.numel()).view(x.shape)).sum() for x in results)
        gradients.append(torch.autograd.grad(loss, inputs))
    torch.testing.assert_close(list(given), list(expected))
    torch.testing.assert_close(*gradients)


def test_maps_become_tokens_and_maps_again():
    maps = [drawn(2, 6, h, w) for h, w in SHAPES]
    plain = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
    same(tokens_of_maps(maps, PLACE), plain, maps)

    tokens = drawn(2, S, 6)
    levels = tokens.split([h * w for h, w in SHAPES], dim=1)[:3]
    plain = [x.transpose(1, 2).unflatten(2, s) for x, s in zip(levels, SHAPES[:3], strict=True)]
    same(maps_of_tokens(tokens, SHAPES[:3]), plain, [tokens])

    with pytest.raises(ValueError, match=f"hold {S} tokens, not 3"):
        tokens_of_maps(maps, torch.empty(3))


def test_every_token_gets_the_row_of_its_level():
    rows = drawn(4, 6)
    plain = rows.repeat_interleave(torch.tensor([h * w for h, w in SHAPES]), dim=0)
    same(level_rows(rows, SHAPES, PLACE), plain, [rows])


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (3, {"kernel_size": 5, "stride": 2, "padding": 2, "bias": False}),
        (8, {"kernel_size": 3, "padding": (1, 0), "groups": 4}),
        (8, {"kernel_size": (3, 2), "stride": (2, 1), "dilation": 2}),
    ],
)
def test_convolution_is_that_of_torch(channels, options):
    conv = torch.nn.Conv2d(channels, 8, **options).double()
    x = drawn(2, channels, 9, 11)
    parameters = [p for p in (conv.weight, conv.bias) if p is not None]
    plain = conv(x)
    use_graph_convolutions(conv)
    assert type(conv) is GraphConv2d and conv(x).equal(plain)
    given = convolution(x, conv, conv.bias)
    assert given.is_contiguous()
    same(given, plain, [x, *parameters])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = convolution(mode.from_tensor(x), conv, conv.bias)
    assert fake.shape == plain.shape


def test_a_scaled_convolution_keeps_its_weight_as_it_is():
    conv = torch.nn.Conv2d(8, 4, 3, groups=2).double()
    x, scale = drawn(2, 8, 9, 11), drawn(4).detach()
    scaled = conv.weight * scale.view(-1, 1, 1, 1)
    plain = torch.nn.functional.conv2d(x, scaled, conv.bias, groups=2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        given = convolution(x, conv, conv.bias, scale)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (x, conv.weight, scale)}
    same(given, plain, [x, conv.weight, conv.bias])


def test_autocast_keeps_no_weight_of_its_type():
    conv = torch.nn.Conv2d(8, 8, 3)
    x = torch.randn(2, 8, 9, 11, requires_grad=True)
    kept = []
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        given, plain = convolution(x, conv, conv.bias), conv(x)
        assert given.dtype == plain.dtype == torch.bfloat16
    assert conv.weight.data_ptr() in {t.data_ptr() for t in kept}
    inputs = [x, conv.weight, conv.bias]
    gradients = [torch.autograd.grad(y.float().square().sum(), inputs) for y in (given, plain)]
    for got, expected in zip(*gradients, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2 * expected.abs().max())


@pytest.mark.parametrize("backbone", ["resnet_mini", "resnet50", "swin_t"])
def test_number_of_tokens_is_known_beforehand(backbone):
    with torch.device("meta"):
        model = SeqFormer(ModelConfig(backbone=backbone))
        for side in ((64, 96), (61, 83), (97, 129)):
            frames = torch.empty(1, 3, *side)
            tokens = sum(m.shape[2] * m.shape[3] for m in model.pyramid(frames))
            assert len(model.token_place(frames)) == tokens
