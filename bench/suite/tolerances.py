"""How far a kernel may be from the float64 reference: one table for all kernels."""

from __future__ import annotations

import torch
from torch import Tensor

RELATIVE_NORM = {
    torch.float64: 1e-11,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1e-2,
}
"""By the lowest precision among the tensors of a call: ||actual - exact|| / ||exact||."""


def assert_near(
    actual: Tensor,
    exact: Tensor,
    dtype: torch.dtype,
    name: str = "result",
    terms: float | Tensor = 0.0,
) -> None:
    """Shapes agree, everything is finite, and the relative error is within the table.

    Args:
        exact: float64.
        dtype: the lowest precision that took part.
        terms: norm of the numbers whose difference the result is, where they cancel.
    """
    assert actual.shape == exact.shape, f"{name}: {list(actual.shape)} != {list(exact.shape)}"
    assert actual.isfinite().all(), f"{name} is not finite"
    error, scale = (actual.double() - exact).norm(), max(float(exact.norm()), float(terms))
    assert error <= RELATIVE_NORM[dtype] * scale + 1e-30, (
        f"{name}: relative error {error / max(scale, 1e-30):.2e} exceeds {RELATIVE_NORM[dtype]:.0e}"
    )
