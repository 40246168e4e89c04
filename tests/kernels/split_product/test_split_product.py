"""Products in three parts are as exact as float32's own, for any shape and number of threads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from kernels.split_product import (
    conv2d,
    fits,
    linear,
    op,
    reference,
    split_weight,
    why_not_available,
)

needs_amx = pytest.mark.skipif(why_not_available() is not None, reason=str(why_not_available()))
SHAPES = [  # n, C, h, w, O, k, stride, padding
    (2, 64, 9, 11, 48, 3, 1, 1),
    (2, 64, 9, 12, 64, 3, 2, 1),
    (1, 32, 7, 7, 32, 1, 2, 0),
    (3, 96, 5, 6, 37, 1, 1, 0),
    (1, 32, 1, 1, 5, 3, 1, 1),
    (1, 32, 11, 40, 16, 5, 3, 2),
    (7, 160, 6, 10, 40, 3, 1, 1),
    (3, 512, 24, 40, 8, 3, 2, 1),
]


def random_case(shape, scale=1.0):
    n, C, h, w, outputs, k, *_ = shape
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*size, generator=g) for size in ((n, C, h, w), (outputs, C, k, k), (outputs,))
    )
    return x * scale, weight, bias * scale


@needs_amx
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e15])
@pytest.mark.parametrize("shape", SHAPES)
def test_errors_are_those_of_float32(shape, scale):
    """Of the sum of the products' sizes: 2^-24 for every rounding, of which few are in a row."""
    x, weight, bias = random_case(shape, scale)
    geometry = shape[-2:]
    exact = F.conv2d(x.double(), weight.double(), bias.double(), *geometry)
    sizes = F.conv2d(x.double().abs(), weight.double().abs(), bias.double().abs(), *geometry)
    result = conv2d(x, split_weight(weight), bias, *geometry)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert ((result - exact).abs() / sizes).max() < 2.0**-22
    plain = F.conv2d(x, weight, bias, *geometry)
    error, plain_error = ((y - exact).square().mean().sqrt() for y in (result, plain))
    assert error < 1.5 * plain_error


@needs_amx
def test_sum_and_relu():
    x, weight, bias = random_case(SHAPES[0])
    split = split_weight(weight)
    plain = conv2d(x, split, bias, padding=1)
    assert torch.equal(conv2d(x, split, bias, padding=1, relu=True), plain.relu())
    other = torch.randn_like(plain)
    total = plain + other
    result = conv2d(x, split, bias, padding=1, add_to=other)
    assert result.data_ptr() == other.data_ptr()
    torch.testing.assert_close(result, total)
    without = conv2d(x, split, padding=1)
    torch.testing.assert_close(without + bias[:, None, None], plain)


@needs_amx
def test_layout_of_the_input_and_number_of_threads_make_no_difference():
    x, weight, bias = random_case((3, 64, 40, 33, 40, 3, 1, 1))
    split = split_weight(weight)
    expected = conv2d(x, split, bias, padding=1)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    wider = torch.randn(3, 64, 41, 33).contiguous(memory_format=torch.channels_last)
    wider[:, :, :40] = x
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for same in (x, channels_last, wider[:, :, :40]):
                assert torch.equal(conv2d(same, split, bias, padding=1), expected)
    finally:
        torch.set_num_threads(before)


@needs_amx
def test_linear():
    x, weight, bias = torch.randn(2, 5, 64), torch.randn(33, 64), torch.randn(33)
    result = linear(x, split_weight(weight), bias)
    torch.testing.assert_close(result, F.linear(x, weight, bias))
    assert linear(x[:0], split_weight(weight), bias).shape == (0, 5, 33)


@needs_amx
def test_what_is_not_finite_stays_so():
    x = torch.randn(40, 32)
    x[3, 5], x[7, 1] = float("inf"), float("nan")
    result = linear(x, split_weight(torch.randn(32, 32)), relu=True)
    is_finite = result.isfinite().all(1)
    assert not is_finite[3] and not is_finite[7] and is_finite.sum() == 38


@needs_amx
def test_operator_of_torch():
    x, weight, bias = random_case(SHAPES[1])
    split = split_weight(weight)
    arguments = (x, split.parts, bias, None, split.outputs, 2, 1, True)
    torch.library.opcheck(op.forward, arguments, test_utils=("test_schema", "test_faketensor"))
    result, defined = op.forward(*arguments), reference.forward(*arguments)
    torch.testing.assert_close(result, defined, rtol=0, atol=1e-4)  # of sums up to 100
    counted = []
    for call in (
        lambda: conv2d(x, split, bias, 2, 1, add_to=conv2d(x, split, bias, 2, 1)),
        lambda: [F.conv2d(x, weight, bias, 2, 1) for _ in range(2)],
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call()
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] > 0


def test_three_parts_are_the_number():
    weight = torch.randn(37, 64, 3, 3) * torch.logspace(-12, 12, 64)[:, None, None]
    assert torch.equal(reference.joined(reference.split(weight), 37), weight)


@needs_amx
@pytest.mark.parametrize("shape", [(37, 64, 3, 3), (64, 32, 1, 1), (5, 96, 1, 1)])
def test_weights_are_laid_out_as_the_reference_says(shape):
    weight = torch.randn(shape) * torch.logspace(-12, 12, shape[1])[:, None, None]
    assert torch.equal(split_weight(weight).parts, reference.split(weight))
    strided = weight.transpose(2, 3)
    assert torch.equal(split_weight(strided).parts, reference.split(strided))


def test_what_does_not_fit_is_said():
    good = torch.randn(4, 32)
    for bad in (torch.randn(4, 33), torch.randn(4, 32, 3, 5), good.double(), good[:0]):
        assert not fits(bad)
        with pytest.raises(ValueError, match="C a multiple of 32"):
            split_weight(bad)
    for x, bias in ((torch.randn(2, 64), None), (torch.randn(2, 32), torch.randn(5))):
        with pytest.raises(ValueError, match="must be float32"):
            linear(x, split_weight(good), bias)
