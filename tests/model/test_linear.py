"""Products by another routine are the same products."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from seqformer.model import linear as module
from seqformer.model.linear import linear


@pytest.mark.parametrize("has_onednn", [True, False])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("lead", [(), (5,), (2, 3, 5), (0,)], ids=str)
def test_equals_linear(has_onednn, relu, is_transposed, lead, monkeypatch):
    if not module.HAS_ONEDNN and has_onednn:
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(module, "HAS_ONEDNN", has_onednn)
    torch.manual_seed(0)
    x, bias = torch.randn(*lead, 7), torch.randn(9)
    weight = torch.randn(7, 9).t() if is_transposed else torch.randn(9, 7)
    with torch.no_grad():
        for b in (bias, None):
            expected = F.linear(x.double(), weight.double(), None if b is None else b.double())
            expected = expected.relu() if relu else expected
            result = linear(x, weight, b, relu)
            assert result.shape == (*lead, 9)
            torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_rounded_once():
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(n).bfloat16() for n in ((40, 70), (30, 70), (30,)))
    exact = F.linear(x.double(), weight.double(), bias.double())
    for relu in (False, True):
        expected = exact.relu() if relu else exact
        result = linear(x, weight, bias, relu)
        assert result.dtype == torch.bfloat16
        torch.testing.assert_close(result.double(), expected, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_are_left_to_torch(dtype):
    x, weight, bias = torch.randn(4, 6), torch.randn(3, 6), torch.randn(3)
    x, weight, bias = (t.to(dtype) for t in (x, weight, bias))
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


def test_flops_are_counted():
    x, weight = torch.randn(4, 6), torch.randn(3, 6)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        linear(x, weight)
    assert counter.get_total_flops() == 2 * 4 * 6 * 3
