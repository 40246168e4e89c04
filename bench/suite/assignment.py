"""The solver of the matching on a machine without SciPy: a fixed assignment, the same on all sides.

Costs are computed and brought to the host as ever; only the solving, tens of microseconds a clip
and layer, is left out. Records of a GPU say which it was.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

import numpy as np

SOLVER = "scipy" if find_spec("scipy") is not None else "fixed"


@contextmanager
def solver() -> Iterator[None]:
    """Inside, SciPy's solver can be imported, or what stands for it."""
    if SOLVER == "scipy":
        yield
        return
    stand_in = ModuleType("scipy.optimize")
    stand_in.linear_sum_assignment = fixed_assignment
    names = ("scipy", "scipy.optimize")
    sys.modules.update(dict.fromkeys(names, stand_in))
    try:
        yield
    finally:
        for name in names:  # and no others: PyTorch imports more of itself inside
            del sys.modules[name]


def fixed_assignment(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Instance n gets query n; cost [Q, N] -> (query, instance), as SciPy returns them."""
    index = np.arange(min(cost.shape))
    return index, index
