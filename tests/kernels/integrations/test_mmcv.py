"""mmcv, as installed: its function and its module, with compiled operators or without."""

from __future__ import annotations

import sys

import pytest
import torch

from kernels import integrations, ms_deform_attn_reference

pytest.importorskip("mmcv")
pytestmark = pytest.mark.integrations

SHAPES = torch.tensor([(6, 4), (3, 2)])
STARTS = torch.tensor([0, 24])


def test_the_function():
    g = torch.Generator().manual_seed(0)
    value = torch.randn(2, 30, 4, 8, generator=g, dtype=torch.float64, requires_grad=True)
    locations = torch.rand(2, 5, 4, 2, 3, 2, generator=g, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 5, 4, 2, 3, generator=g, dtype=torch.float64, requires_grad=True)
    expected = ms_deform_attn_reference(value, SHAPES, locations, weights)
    with integrations.use_in_mmcv():
        from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

        output = MultiScaleDeformableAttnFunction.apply(
            value, SHAPES, STARTS, locations, weights, 64
        )
    torch.testing.assert_close(output, expected)
    inputs = (value, locations, weights)
    targets = torch.autograd.grad(expected.square().sum(), inputs)
    for result, target in zip(
        torch.autograd.grad(output.square().sum(), inputs), targets, strict=True
    ):
        torch.testing.assert_close(result, target)


@pytest.mark.parametrize("numbers", [2, 4])
def test_the_module(numbers):
    """Its own path on a CPU is `grid_sample`; ours is put in its place."""
    g = torch.Generator().manual_seed(0)
    query, tokens = torch.randn(5, 2, 32, generator=g), torch.randn(30, 2, 32, generator=g)
    points = torch.rand(2, 5, 2, numbers, generator=g)
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[1, :7] = True
    with integrations.use_in_mmcv():
        import mmcv.ops.multi_scale_deform_attn as file

        module = file.MultiScaleDeformableAttention(32, 4, 2, 3).eval()
        torch.nn.init.normal_(module.sampling_offsets.weight)
        torch.nn.init.normal_(module.attention_weights.weight)
        options = {
            "value": tokens,
            "reference_points": points,
            "spatial_shapes": SHAPES,
            "level_start_index": STARTS,
            "key_padding_mask": mask,
        }
        ours = module(query, **options)
    torch.testing.assert_close(ours, module(query, **options))  # undone: its own path


def test_undone_the_library_is_as_before():
    with integrations.use_in_mmcv():
        import mmcv.ops.multi_scale_deform_attn as file

        assert "apply" in vars(file.MultiScaleDeformableAttnFunction)
    assert "apply" not in vars(file.MultiScaleDeformableAttnFunction)
    assert file.multi_scale_deformable_attn_pytorch.__module__ == file.__name__


def test_what_was_not_built_says_so():
    with integrations.use_in_mmcv():
        extension = sys.modules["mmcv._ext"]
        if getattr(extension, "__file__", None):
            pytest.skip("mmcv has its compiled operators")
        with pytest.raises(
            RuntimeError, match="without its compiled operators, so there is no nms"
        ):
            extension.nms()
