"""What keeps less for the backward pass gives the results and gradients of the plain formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from seqformer.model import build_model
from seqformer.model.cpu_attention import attention
from seqformer.model.memory_efficient import Linear, feed_forward, linears_of_sum, scaled_conv2d
from seqformer.model.resnet import FrozenBatchNorm2d


def problem(name):
    """A lean function, the plain one, their inputs and the modules whose weights they use."""
    torch.manual_seed(0)
    if name == "sum":
        first, second = nn.Linear(6, 8), nn.Linear(6, 3)
        layers = [(m.weight, m.bias) for m in (first, second)]
        inputs = [torch.randn(2, 5, 7, 6), torch.randn(2, 1, 7, 6)]
        modules = nn.ModuleList([first, second])
        return (
            lambda x, p: torch.cat(linears_of_sum(x, p, *layers), dim=-1),
            lambda x, p: torch.cat([first(x + p), second(x + p)], dim=-1),
            inputs,
            modules,
        )
    if name == "feed_forward":
        modules = nn.ModuleList([nn.Linear(6, 16), nn.Linear(16, 6)])
        first, second = modules
        return (
            lambda x: feed_forward(x, first, second),
            lambda x: second(first(x).relu()),
            [torch.randn(2, 5, 7, 6)],
            modules,
        )
    if name == "linear":
        modules = nn.ModuleList([Linear(6, 8)])
        return (
            modules[0],
            lambda x: F.linear(x, modules[0].weight, modules[0].bias),
            [torch.randn(2, 5, 7, 6)],
            modules,
        )
    conv = nn.Conv2d(4, 6, 3, 2, 1, groups=2, bias=False)
    scale, shift = (torch.randn(6).double() for _ in range(2))

    def plain(x):
        dtype = x.dtype if not torch.is_autocast_enabled("cpu") else torch.bfloat16
        each = (None, slice(None), None, None)
        return conv(x) * scale[each].to(dtype) + shift[each].to(dtype)

    return (
        lambda x: scaled_conv2d(x, conv, scale, shift),
        plain,
        [torch.randn(2, 4, 9, 8)],
        nn.ModuleList([conv]),
    )


def outcome(run, inputs, modules):
    """Result, every gradient, and the bytes kept for the backward pass."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    before = [x.detach().clone() for x in leaves]
    modules.zero_grad()
    known = {t.untyped_storage().data_ptr() for t in [*leaves, *modules.parameters()]}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run(*leaves)
    seed = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    result.backward(seed.to(result.dtype))
    for leaf, copy in zip(leaves, before, strict=True):
        assert torch.equal(leaf, copy)
    grads = [t.grad for t in [*leaves, *modules.parameters()]]
    return result.detach(), grads, sum(kept.values())


@pytest.mark.parametrize("name", ["sum", "feed_forward", "linear", "conv"])
def test_results_and_gradients_are_those_of_the_plain_formula(name):
    lean, plain, inputs, modules = problem(name)
    modules.double()
    inputs = [x.double() for x in inputs]
    result, grads, _ = outcome(lean, inputs, modules)
    plain_result, plain_grads, _ = outcome(plain, inputs, modules)
    torch.testing.assert_close(result, plain_result, rtol=1e-12, atol=1e-12)
    for grad, expected in zip(grads, plain_grads, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["sum", "feed_forward", "linear", "conv"])
def test_autocast_lowers_the_same_inputs(name):
    lean, plain, inputs, modules = problem(name)
    with torch.autocast("cpu", torch.bfloat16):
        result, grads, _ = outcome(lean, inputs, modules)
        plain_result, plain_grads, _ = outcome(plain, inputs, modules)
    assert result.dtype == plain_result.dtype == torch.bfloat16
    torch.testing.assert_close(result, plain_result, rtol=3e-2, atol=3e-2)
    for grad, expected in zip(grads, plain_grads, strict=True):
        assert grad.dtype == expected.dtype == torch.float32
        torch.testing.assert_close(grad, expected, rtol=5e-2, atol=5e-2 * expected.abs().max())


def test_sums_and_scaled_weights_are_not_kept():
    for name in ("sum", "conv"):
        lean, _, inputs, modules = problem(name)
        modules.double()
        assert outcome(lean, [x.double() for x in inputs], modules)[2] <= 6 * 8  # conv: the scale


def test_frozen_parts_get_no_gradient_and_keep_nothing():
    lean, _, inputs, modules = problem("conv")
    modules.requires_grad_(False)
    leaf = inputs[0].double().requires_grad_()
    modules.double()
    lean(leaf).sum().backward()
    assert leaf.grad is not None and modules[0].weight.grad is None
    assert not lean(leaf.detach()).requires_grad


def test_a_frozen_norm_follows_its_buffers():
    norm = FrozenBatchNorm2d(3)
    with torch.inference_mode():
        first = norm.scale_shift()
    assert norm.scale_shift()[0] is first[0] and not first[0].is_inference()
    norm.running_mean.fill_(2.0)
    torch.testing.assert_close(norm.scale_shift()[1], -2.0 * norm.scale_shift()[0])
    norm.load_state_dict(norm.state_dict() | {"weight": torch.full((3,), 4.0)})
    torch.testing.assert_close(norm.scale_shift()[0], 4.0 * first[0])
    assert norm.double().scale_shift()[0].dtype == torch.float64


def test_what_is_made_while_tracing_is_not_kept():
    model = build_model("resnet50", hidden_dim=32, ffn_dim=32, num_queries=4, num_classes=3).eval()
    images = torch.randn(1, 1, 3, 128, 128)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        assert isinstance(model(mode.from_tensor(images)).boxes, FakeTensor)
    with torch.no_grad():
        assert type(model(images).boxes) is torch.Tensor


def test_gradients_of_a_sum_in_low_precision():
    """Forward as ever; the gradients of products are bfloat16 ones, those of biases are not."""
    x, position = torch.randn(2, 40, 32), torch.randn(40, 32)
    layers = [(torch.randn(n, 32), torch.randn(n)) for n in (16, 5)]
    seeds = [torch.randn(2, 40, n) for n in (16, 5)]
    gradients, results = [], []
    for backward in (None, torch.bfloat16):
        leaves = [t.clone().requires_grad_() for t in (x, position, *layers[0], *layers[1])]
        pairs = (tuple(leaves[2:4]), tuple(leaves[4:]))
        outputs = linears_of_sum(leaves[0], leaves[1], *pairs, backward=backward)
        gradients.append(torch.autograd.grad(outputs, leaves, seeds))
        results.append(outputs)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    for exact, low in zip(*gradients, strict=True):
        assert low.dtype == torch.float32 and low.shape == exact.shape
        assert (low - exact).abs().max() <= 0.02 * exact.abs().max()
    assert torch.equal(gradients[0][3], gradients[1][3])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attention_in_bfloat16_goes_back_in_float32(dropout):
    exact = [torch.randn(2, 3, 7, 8, requires_grad=True) for _ in range(3)]
    low = [t.detach().bfloat16().requires_grad_() for t in exact]
    seed = torch.randn(2, 3, 7, 8)
    gradients = []
    for inputs in (exact, low):
        torch.manual_seed(0)
        out = attention(*inputs, dropout)
        assert out.dtype == inputs[0].dtype
        gradients.append(torch.autograd.grad(out, inputs, seed.to(out.dtype)))
    if not dropout:  # with dropout the masks of the two types differ
        for one, other in zip(*gradients, strict=True):
            assert other.dtype == torch.bfloat16
            assert (one - other).abs().max() <= 0.03 * one.abs().max()


def test_convolution_under_autocast_scales_in_float32():
    """The weight is scaled before it is rounded, and its gradient after it was widened."""
    conv, x = nn.Conv2d(8, 6, 3, 2, 1, bias=False), torch.randn(2, 8, 9, 7, requires_grad=True)
    scale, shift = torch.rand(6) + 0.5, torch.randn(6)
    expected = conv(x) * scale[:, None, None] + shift[:, None, None]
    seed = torch.randn_like(expected)
    exact = torch.autograd.grad(expected, (x, conv.weight), seed)
    with torch.autocast("cpu", torch.bfloat16):
        result = scaled_conv2d(x, conv, scale, shift)
    low = torch.autograd.grad(result, (x, conv.weight), seed.bfloat16())
    assert result.dtype == torch.bfloat16
    assert (result - expected).abs().max() <= 0.02 * expected.abs().max()
    for one, other in zip(exact, low, strict=True):
        assert other.dtype == torch.float32
        assert (one - other).abs().max() <= 0.02 * one.abs().max()
    assert low[1].is_contiguous()
