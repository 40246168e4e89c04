"""What the operators that compilers look into share: see `deformable_attention.triton_in_graph`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=64)
def with_options(kernel: Any, num_warps: int, max_registers: int | None) -> Any:
    """A kernel with compile options, which inductor takes from a configuration only.

    Args:
        max_registers: per thread, or None.
    """
    import triton

    options: dict[str, Any] = {"num_warps": num_warps, "num_stages": 1}
    if max_registers is not None:
        options["maxnreg"] = max_registers
    return triton.autotune(configs=[triton.Config({}, **options)], key=[])(kernel)
