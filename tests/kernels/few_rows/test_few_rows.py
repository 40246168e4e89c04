"""Blocks on few rows are those of plain PyTorch, whatever the sizes, and step aside where they do
not fit."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from kernels import few_rows
from kernels.few_rows import reference

pytestmark = pytest.mark.skipif(
    few_rows.why_not_available() is not None, reason="there is no C compiler"
)
WIDTHS = [(64, 256), (32, 64), (4, 3), (48, 20), (17, 33), (8, 300)]


def layer(outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)


def norm_of(channels: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    return torch.randn(channels), torch.randn(channels), 1e-5


def check(name: str, *arguments: object) -> None:
    """Of float32 against float64."""
    with torch.inference_mode():
        actual = getattr(few_rows, name)(*arguments)
        expected = getattr(reference, name)(*(_doubled(argument) for argument in arguments))
    for one, other in zip(
        *((x if isinstance(x, list) else [x]) for x in (actual, expected)), strict=True
    ):
        torch.testing.assert_close(one.double(), other, rtol=2e-5, atol=2e-5)


def _doubled(argument):
    if isinstance(argument, torch.Tensor):
        return argument.double()
    is_nested = isinstance(argument, (list, tuple))
    return type(argument)(map(_doubled, argument)) if is_nested else argument


@pytest.mark.parametrize(("C", "H"), WIDTHS)
@pytest.mark.parametrize("R", [1, 4, 7, 20, 64])
def test_blocks_are_those_of_torch(R, C, H):
    torch.manual_seed(R + C)
    x, residual, norm = torch.randn(2, R, C), torch.randn(2, R, H), norm_of(C)
    check("feed_forward", x, layer(H, C), layer(C, H), norm)
    check("linear_norm", x, residual, layer(H, C), norm_of(H))
    check("mlp", x, [layer(H, C), layer(C, H), layer(4, C)])
    check("mlp", x, [layer(H, C)])
    check("linears_of_sum", x, torch.randn(R, 2 * C)[:, C:], [layer(H, C), layer(5, C)])


@pytest.mark.parametrize(("n", "Q", "C", "M"), [(1, 20, 64, 4), (3, 7, 32, 4), (2, 1, 6, 2)])
def test_attention_is_that_of_torch(n, Q, C, M):
    torch.manual_seed(Q)
    x, position = torch.randn(n, Q, C), torch.randn(Q, 2 * C)[:, :C]
    check("attend", x, position, layer(3 * C, C), layer(C, C), norm_of(C), M)
    check("attend", 100 * x, position, layer(3 * C, C), layer(C, C), norm_of(C), M)


def test_not_a_number_stays_one():
    x, first, second = torch.randn(1, 5, 8), layer(16, 8), layer(8, 16)
    x[0, 2, 3] = float("nan")
    with torch.inference_mode():
        result = few_rows.feed_forward(x, first, second, norm_of(8))
    assert result[0, 2].isnan().all() and result[0, [0, 1, 3, 4]].isfinite().all()


def test_what_does_not_fit():
    x, weight = torch.randn(2, 10, 8), torch.randn(8, 8)
    assert not few_rows.fits(x, weight), "outside of inference mode there may be gradients"
    with torch.inference_mode():
        assert few_rows.fits(x, weight, Parameter(weight)) and few_rows.fits(x.mT.contiguous().mT)
        assert not few_rows.fits(x.double(), weight) and not few_rows.fits(x, weight.double())
        assert not few_rows.fits(x, weight.t()) and not few_rows.fits(x, None)
        assert not few_rows.fits(torch.randn(1, few_rows.MAX_ROWS + 1, 8)), "torch is faster"
        assert not few_rows.fits(x[:, :0])
        with torch.utils.flop_counter.FlopCounterMode(display=False):
            assert not few_rows.fits(x), "products are counted"
