"""Whether a GPU's float32 products round their inputs to 10 bits (TF32), for the length of a call.

Float32 cases run without, on all sides, so that sides can agree. In half-precision cases ours runs
as the trainer's default has it, and the published formulation, float32, as PyTorch's default has
it: convolutions may round, matrix products may not. A CPU knows none of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32(products: bool, convolutions: bool) -> Iterator[None]:
    """Allow it inside, or not."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32
    cuda.allow_tf32, cudnn.allow_tf32 = products, convolutions
    try:
        yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32 = before
