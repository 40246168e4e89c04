"""Weights in bfloat16 whose rows keep their sum."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqformer.model.balanced_rounding import to_bfloat16


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 5),
    columns=st.integers(1, 400),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
    share_of_zeros=st.sampled_from([0.0, 0.5]),
)
def test_every_number_is_a_neighbour_and_rows_keep_their_sum(
    seed, rows, columns, scale, share_of_zeros
):
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(rows, columns, generator=generator)
    weight[torch.rand(weight.shape, generator=generator) < share_of_zeros] = 0
    rounded = to_bfloat16(weight)
    nearest = weight.to(torch.bfloat16)
    last_place = 2.0 ** (torch.frexp(weight).exponent.double() - 8)
    error = weight.double() - rounded.double()
    assert (error.abs() <= last_place * (1 + 1e-6)).all()
    assert ((weight == 0) <= (rounded == 0)).all()
    before = (weight.double() - nearest.double()).sum(1).abs()
    after = error.sum(1).abs()
    # The sum of the errors is itself rounded in float32.
    assert (after <= before + 1e-4 * last_place.sum(1)).all()
    if columns > 30:
        assert (after <= last_place.max(1).values).all()


def test_the_mean_of_what_follows_a_relu_is_kept():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 256, 3, 3, generator=generator) / 48
    x = torch.randn(32, 256, 3, 3, generator=generator).relu()
    exact = torch.einsum("nchw,ochw->no", x, weight)
    errors = []
    for rounded in (weight.to(torch.bfloat16), to_bfloat16(weight)):
        assert rounded.shape == weight.shape and rounded.dtype == torch.bfloat16
        error = torch.einsum("nchw,ochw->no", x, rounded.float()) - exact
        errors.append(error.mean(0).square().mean().item())
    assert errors[1] < errors[0] / 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.3895e38])
def test_what_has_no_neighbour_stays(value):
    weight = torch.full((2, 40), 0.1)
    weight[0] = value
    rounded = to_bfloat16(weight)
    torch.testing.assert_close(
        rounded[0], weight[0].to(torch.bfloat16), rtol=0, atol=0, equal_nan=True
    )
    assert rounded[1].isfinite().all()


def test_vectors_and_empty_weights_are_rounded_to_the_nearest():
    for weight in (torch.randn(7), torch.randn(0, 3), torch.tensor(0.3)):
        assert torch.equal(to_bfloat16(weight), weight.to(torch.bfloat16))
