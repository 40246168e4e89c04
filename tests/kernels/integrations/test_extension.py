"""The extension's two functions, by its contract: values, gradients, list, step, one dtype."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch.autograd import Function, gradcheck
from torch.autograd.function import once_differentiable

from kernels import integrations, ms_deform_attn_reference, use_backend
from kernels.integrations import extension

SHAPES = [(6, 4), (3, 2)]


def arguments(dtype=torch.float64, images=2, channels=4, step=64):
    """As the repositories pass them: value, shapes, starts, locations, weights, step."""
    g = torch.Generator().manual_seed(0)
    tokens = sum(h * w for h, w in SHAPES)
    value = torch.rand(images, tokens, 2, channels, generator=g, dtype=torch.float64)
    locations = torch.rand(images, 3, 2, 2, 2, 2, generator=g, dtype=torch.float64)
    weights = torch.rand(images, 3, 2, 2, 2, generator=g, dtype=torch.float64)
    shapes = torch.tensor(SHAPES)
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    return value.to(dtype), shapes, starts, locations.to(dtype), weights.to(dtype), step


class Theirs(Function):
    """The function that every repository wraps around the extension."""

    @staticmethod
    def forward(ctx, value, shapes, starts, locations, weights, step):
        import MultiScaleDeformableAttention as MSDA

        ctx.step = step
        ctx.save_for_backward(value, shapes, starts, locations, weights)
        return MSDA.ms_deform_attn_forward(value, shapes, starts, locations, weights, step)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        import MultiScaleDeformableAttention as MSDA

        grads = MSDA.ms_deform_attn_backward(*ctx.saved_tensors, grad_output, ctx.step)
        grad_value, grad_locations, grad_weights = grads
        return grad_value, None, None, grad_locations, grad_weights, None


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients(dtype, backend):
    value, shapes, starts, locations, weights, step = arguments(dtype)
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    expected = ms_deform_attn_reference(value, shapes, locations, weights)
    grad_output = torch.linspace(-1, 1, expected.numel(), dtype=dtype).view_as(expected)
    with integrations.use_as_extension(), use_backend(backend):
        output = Theirs.apply(value, shapes, starts, locations, weights, step)
        grads = torch.autograd.grad(output, inputs, grad_output)
    expected_grads = torch.autograd.grad(expected, inputs, grad_output)
    assert output.shape == (2, 3, 8) and output.dtype == dtype
    for result, target in zip((output, *grads), (expected, *expected_grads), strict=True):
        torch.testing.assert_close(result, target)


def test_numerical_gradient():
    value, shapes, starts, locations, weights, step = arguments()
    with integrations.use_as_extension():
        inputs = [x.requires_grad_() for x in (value, locations, weights)]
        assert gradcheck(
            lambda v, x, w: Theirs.apply(v, shapes, starts, x, w, step), inputs, fast_mode=True
        )


def test_backward_returns_a_list_of_three():
    *inputs, step = arguments()
    grads = extension.ms_deform_attn_backward(*inputs, torch.ones(2, 3, 8).double(), step)
    assert isinstance(grads, list)
    assert [g.shape for g in grads] == [inputs[i].shape for i in (0, 3, 4)]


@pytest.mark.parametrize(("images", "step", "fits"), [(4, 2, True), (3, 64, True), (3, 2, False)])
def test_step_must_divide_the_batch(images, step, fits):
    given = arguments(images=images, step=step)
    if fits:
        assert extension.ms_deform_attn_forward(*given).shape[0] == images
    else:
        with pytest.raises(ValueError, match="im2col_step 2 must divide the batch of 3 images"):
            extension.ms_deform_attn_forward(*given)


def test_dtypes_may_not_mix():
    value, shapes, starts, locations, weights, step = arguments(torch.float32)
    with pytest.raises(ValueError, match="share one dtype, got float16, float32, float32"):
        extension.ms_deform_attn_forward(value.half(), shapes, starts, locations, weights, step)


def test_levels_must_follow_one_another():
    value, shapes, starts, locations, weights, step = arguments()
    with pytest.raises(ValueError, match=r"level_start_index must be \[0, 24\] .* got \[0, 25\]"):
        given = (value, shapes, starts + starts.clamp(max=1), locations, weights, step)
        extension.ms_deform_attn_forward(*given)
    with pytest.raises(ValueError, match=r"spatial_shapes must be \[L, 2\] integers"):
        extension.ms_deform_attn_forward(value, shapes.float(), starts, locations, weights, step)
    with pytest.raises(ValueError, match="must agree in L"):
        extension.ms_deform_attn_forward(value, shapes, starts[:1], locations, weights, step)


def test_gradient_of_another_shape():
    *inputs, step = arguments()
    with pytest.raises(ValueError, match=r"grad_output must be \[B, Q, M\*D\] = \[2, 3, 8\]"):
        extension.ms_deform_attn_backward(*inputs, torch.ones(2, 3, 9).double(), step)


def test_the_import_finds_ours_until_undone():
    assert extension.NAME not in sys.modules
    patch = integrations.use_as_extension()
    import MultiScaleDeformableAttention as MSDA

    assert MSDA.ms_deform_attn_forward is extension.ms_deform_attn_forward
    patch.undo()
    patch.undo()
    assert extension.NAME not in sys.modules


def test_a_loaded_extension_is_replaced_in_place(monkeypatch):
    built = ModuleType(extension.NAME)
    built.ms_deform_attn_forward = original = lambda *arguments: None
    monkeypatch.setitem(sys.modules, extension.NAME, built)
    with integrations.use_as_extension():
        assert built.ms_deform_attn_forward is extension.ms_deform_attn_forward
    assert built.ms_deform_attn_forward is original
    assert not hasattr(built, "ms_deform_attn_backward") and sys.modules[extension.NAME] is built


def test_one_wait_serves_all_layers(monkeypatch):
    """Tensors on a GPU are read once, as long as nobody writes to them."""
    reads = []

    def read(shapes, starts):
        reads.append(1)
        return tuple(map(tuple, SHAPES)), (0, 24)

    monkeypatch.setattr(extension, "_read", read)
    shapes = torch.zeros(2, 2, dtype=torch.int64, device="meta")
    starts = torch.zeros(2, dtype=torch.int64, device="meta")
    for _ in range(3):
        assert extension._on_host(shapes, starts)[1] == (0, 24)
    assert len(reads) == 1
    shapes.add_(1)
    extension._on_host(shapes, starts)
    extension._on_host(shapes.clone(), starts)
    assert len(reads) == 3
