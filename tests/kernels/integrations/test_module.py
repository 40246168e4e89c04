"""`MSDeformAttn` against the published formula, and in place of look-alikes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kernels import integrations, ms_deform_attn_reference
from kernels.integrations import MSDeformAttn

SHAPES = torch.tensor([(6, 4), (3, 2)])
STARTS = torch.tensor([0, 24])


class Theirs(nn.Module):
    """The published module's parts, with its formula."""

    def __init__(self):
        super().__init__()
        self.n_heads, self.n_levels, self.n_points = 4, 2, 3
        self.sampling_offsets = nn.Linear(16, 4 * 2 * 3 * 2)
        self.attention_weights = nn.Linear(16, 4 * 2 * 3)
        self.value_proj = nn.Linear(16, 16)
        self.output_proj = nn.Linear(16, 16)

    def forward(
        self,
        query,
        reference_points,
        input_flatten,
        input_spatial_shapes,
        input_level_start_index,
        input_padding_mask=None,
    ):
        B, Q, _ = query.shape
        value = self.value_proj(input_flatten)
        if input_padding_mask is not None:
            value = value.masked_fill(input_padding_mask[..., None], float(0))
        offsets = self.sampling_offsets(query).view(B, Q, 4, 2, 3, 2)
        weights = self.attention_weights(query).view(B, Q, 4, 6).softmax(-1).view(B, Q, 4, 2, 3)
        if reference_points.shape[-1] == 2:
            sizes = input_spatial_shapes.flip(-1)[None, None, None, :, None, :]
            locations = reference_points[:, :, None, :, None, :] + offsets / sizes
        else:
            boxes = reference_points[:, :, None, :, None, :]
            locations = boxes[..., :2] + offsets / 3 * boxes[..., 2:] * 0.5
        value = value.unflatten(-1, (4, 4))
        output = ms_deform_attn_reference(value, input_spatial_shapes, locations, weights)
        return self.output_proj(output)


Theirs.__name__ = "MSDeformAttn"


def inputs(numbers):
    g = torch.Generator().manual_seed(1)
    query = torch.randn(2, 5, 16, generator=g)
    points = torch.rand(2, 5, 2, numbers, generator=g)
    tokens = torch.randn(2, 30, 16, generator=g)
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[1, 10:14] = True
    return query, points, tokens, SHAPES, STARTS, mask


@pytest.mark.parametrize("numbers", [2, 4])
def test_as_published(numbers):
    torch.manual_seed(0)
    theirs, ours = Theirs(), MSDeformAttn(16, 2, 4, 3)
    ours.load_state_dict(theirs.state_dict())  # the same names
    given = inputs(numbers)
    for module in (theirs, ours):
        module(*given).square().sum().backward()
    torch.testing.assert_close(ours(*given), theirs(*given))
    for (name, one), two in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, msg=lambda text, name=name: name + text)


def test_first_offsets_are_those_of_the_paper():
    """Heads look in M directions of the square, point i at i + 1 cells, the same on every level."""
    bias = MSDeformAttn(16, 2, 4, 3).sampling_offsets.bias.view(4, 2, 3, 2)
    for point in range(3):
        expected = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]) * (point + 1)
        torch.testing.assert_close(bias[:, 0, point], expected, atol=1e-6, rtol=0)
    assert torch.equal(bias[:, 0], bias[:, 1])


def test_look_alikes_run_fused_until_undone():
    torch.manual_seed(0)
    model, given = nn.ModuleList([Theirs(), Theirs()]), inputs(2)
    before = [layer(*given) for layer in model]
    patch = integrations.use_fused(model)
    assert all("forward" in vars(layer) for layer in model)
    for layer, expected in zip(model, before, strict=True):
        torch.testing.assert_close(layer(*given), expected)
    patch.undo()
    assert not any("forward" in vars(layer) for layer in model)


def test_unknown_layouts_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="Linear has no module called MSDeformAttn"):
        integrations.use_fused(nn.Linear(2, 2))
    other = Theirs()
    del other.value_proj
    with pytest.raises(ValueError, match="another layout: no value_proj"):
        integrations.use_fused(other)
    other = Theirs()
    other.forward = lambda query, boxes: query
    with pytest.raises(ValueError, match=r"another layout: forward takes \['query', 'boxes'\]"):
        integrations.use_fused(other)
    with pytest.raises(ValueError, match="n_heads 3 must divide d_model 16"):
        MSDeformAttn(16, 2, 3)
